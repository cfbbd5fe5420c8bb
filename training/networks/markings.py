"""The judge of markings: which emblem and which pattern a subject has, in cut-outs of 64 x 64 pixels.

Four convolutions, three of them strided, and a layer that sees where on the subject each thing is.
`crates/eval/src/markings.rs` computes the same. A second network of this kind, trained apart, compares pictures in the loss of
the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Areas of a cut-out along each side.
GRID = 4


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
        self.emblem = nn.Linear(both * GRID**2, cfg.emblems)
        self.pattern = nn.Linear(both * GRID**2, cfg.patterns)
        self.kind = nn.Linear(both * GRID**2, cfg.kinds)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps of all layers."""
        maps = [images]
        for conv, norm in zip(self.convs, self.norms):
            maps.append(F.relu(norm(conv(maps[-1]))))
        return maps[1:]

    def forward(self, cutouts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut-outs (B, 3, 64, 64) in [-1, 1] to logits of emblem, pattern and kind."""
        maps = torch.cat(self.maps(cutouts)[-2:], 1)
        grid = F.adaptive_avg_pool2d(maps, GRID).flatten(1)
        return self.emblem(grid), self.pattern(grid), self.kind(grid)
