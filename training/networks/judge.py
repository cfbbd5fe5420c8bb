"""The judge: a small convolutional network, apart from all of the bundle's, that says what a picture shows and of whom.

Four strided convolutions, where the subject is (a weight for each cell), then kind and identity from the cells that
are the subject's and the scene from all of them. `crates/eval/src/judge.rs` computes the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.strided import Strided


@dataclass(frozen=True)
class JudgeConfig:
    widths: tuple[int, ...] = (32, 64, 96, 128)
    norm_groups: int = 8
    kinds: int = 12
    scenes: int = 12
    identity: int = 48


class Judge(Strided):
    def __init__(self, cfg: JudgeConfig):
        super().__init__(cfg.widths, cfg.norm_groups)
        last = cfg.widths[-1]
        self.place = nn.Conv2d(last, 1, 1)
        self.kind = nn.Linear(last, cfg.kinds)
        self.scene = nn.Linear(last, cfg.scenes)
        self.identity = nn.Linear(last + cfg.widths[-2], cfg.identity)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures in [-1, 1] to logits of kind and scene, identity (B, identity, of length 1), logits of cells."""
        maps = self.maps(images)
        place = self.place(maps[-1])  # (B, 1, rows, columns)
        weights = place.flatten(2).softmax(-1).transpose(1, 2)  # (B, cells, 1)
        subject = (maps[-1].flatten(2) @ weights).squeeze(-1)
        detail = (maps[-2].flatten(2) @ weights).squeeze(-1)
        identity = F.normalize(self.identity(torch.cat((subject, detail), 1)), dim=-1)
        return self.kind(subject), self.scene(maps[-1].mean((2, 3))), identity, place
