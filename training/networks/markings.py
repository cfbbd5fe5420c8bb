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

from networks.strided import Strided

# Areas of a cut-out along each side.
GRID = 4


@dataclass(frozen=True)
class MarkingsConfig:
    widths: tuple[int, ...] = (24, 48, 96, 128)
    norm_groups: int = 8
    emblems: int = 5
    patterns: int = 8
    kinds: int = 12


class MarkingsJudge(Strided):
    def __init__(self, cfg: MarkingsConfig):
        super().__init__(cfg.widths, cfg.norm_groups)
        both = cfg.widths[-2] + cfg.widths[-1]
        self.emblem = nn.Linear(both * GRID**2, cfg.emblems)
        self.pattern = nn.Linear(both * GRID**2, cfg.patterns)
        self.kind = nn.Linear(both * GRID**2, cfg.kinds)

    def forward(self, cutouts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut-outs (B, 3, 64, 64) in [-1, 1] to logits of emblem, pattern and kind."""
        maps = torch.cat(self.maps(cutouts)[-2:], 1)
        grid = F.adaptive_avg_pool2d(maps, GRID).flatten(1)
        return self.emblem(grid), self.pattern(grid), self.kind(grid)
