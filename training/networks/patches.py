"""The discriminator of the decoder's last steps: says of each small area whether the world drew it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Sees areas of 31 pixels on a side; the norms of its layers keep it from becoming certain."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96)):
        super().__init__()
        ins = (3, *widths)
        self.layers = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 4, 2, 1)) for a, b in zip(ins, widths))
        self.score = spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = F.leaky_relu(layer(images), 0.2)
        return self.score(images)
