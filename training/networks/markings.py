"""The judge of markings: which emblem and which pattern a subject has, in cut-outs of 64 x 64 pixels.

Four convolutions, three of them strided; and for each answer, where to look.
`crates/eval/src/markings.rs` computes the same. A second network of this kind, trained apart, compares pictures in the loss of
the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class MarkingsConfig:
    widths: tuple[int, ...] = (24, 48, 96, 128)
    norm_groups: int = 8
    emblems: int = 5
    patterns: int = 8
    kinds: int = 12


class MarkingsJudge(nn.Module):
    def __init__(self, cfg: MarkingsConfig):
        super().__init__()
        ins = (3, *cfg.widths)
        # All but the last halve the picture.
        strides = [2] * (len(cfg.widths) - 1) + [1]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride, 1) for a, b, stride in zip(ins, ins[1:], strides))
        self.norms = nn.ModuleList(nn.GroupNorm(cfg.norm_groups, width) for width in cfg.widths)
        both = cfg.widths[-2] + cfg.widths[-1]
        self.focus = nn.Conv2d(both, 3, 1)
        self.emblem = nn.Linear(both, cfg.emblems)
        self.pattern = nn.Linear(both, cfg.patterns)
        self.kind = nn.Linear(both, cfg.kinds)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps of all layers."""
        maps = [images]
        for conv, norm in zip(self.convs, self.norms):
            maps.append(F.relu(norm(conv(maps[-1]))))
        return maps[1:]

    def forward(self, cutouts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut-outs (B, 3, 64, 64) in [-1, 1] to logits of emblem, pattern and kind."""
        cells = torch.cat(self.maps(cutouts)[-2:], 1)
        weights = self.focus(cells).flatten(2).softmax(-1)  # (B, 3, cells)
        emblem, pattern, kind = (weights @ cells.flatten(2).transpose(1, 2)).unbind(1)
        return self.emblem(emblem), self.pattern(pattern), self.kind(kind)
