"""The layers that the judges have in common: convolutions that halve a picture, all but the last, each with a norm.

`crates/eval/src/strided.rs` computes the same.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Strided(nn.Module):
    def __init__(self, widths: tuple[int, ...], norm_groups: int):
        super().__init__()
        ins = (3, *widths)
        strides = [2] * (len(widths) - 1) + [1]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride, 1) for a, b, stride in zip(ins, ins[1:], strides))
        self.norms = nn.ModuleList(nn.GroupNorm(norm_groups, width) for width in widths)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps of all layers for pictures (B, 3, rows, columns)."""
        maps = [images]
        for conv, norm in zip(self.convs, self.norms):
            maps.append(F.relu(norm(conv(maps[-1]))))
        return maps[1:]
