"""Trains the subject encoder: two cut-outs of one subject must find each other among all of the batch.

Class tokens are pulled together by identity; patches must tell the colours that they see, so that they carry what is
where.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import common
import settings
from networks.dinov2 import Dinov2


class SubjectTrainer(nn.Module):
    """The network, and heads that are thrown away."""

    def __init__(self):
        super().__init__()
        self.encoder = Dinov2(settings.DINOV2)
        width = settings.DINOV2.hidden_size
        self.project = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 64))
        self.sharpness = nn.Parameter(torch.tensor(2.3))
        self.attributes = nn.Linear(width, settings.KINDS + settings.PATTERNS + settings.EMBLEMS)
        self.palette = nn.Linear(width, 9)
        self.patches = nn.Linear(width, 3 * 16)


def cut(pictures: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Everything outside the boxes white."""
    out = np.full_like(pictures, 255)
    for index, (left, top, right, bottom) in enumerate(boxes):
        out[index, top:bottom, left:right] = pictures[index, top:bottom, left:right]
    return out


def patch_colours(images: Tensor) -> Tensor:
    """Mean colours of a 4 x 4 grid in every patch: (B, patches, 48)."""
    side = settings.DINOV2.image_size // settings.DINOV2.patch_size
    small = F.adaptive_avg_pool2d(images, side * 4)
    return small.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def main() -> None:
    options = common.arguments(__doc__, steps=4_000, batch=48, rate=1e-3)
    shards = common.Shards(options.work / "data/train")
    model = SubjectTrainer()
    run = common.Run(options.work / "dinov2", model, common.adamw(model, options.rate, 0.05), steps=options.steps,
                     rate=options.rate, minutes=options.minutes)
    for step in run:
        rows = common.rows_of_step(3, step, options.batch, len(shards))
        first = shards.take("reference", rows)
        second = cut(shards.take("target", rows), shards.take("target_box", rows))
        images = common.to_images(np.concatenate((first, second)))
        with torch.autocast("cpu", torch.bfloat16):
            cls, patches = model.encoder(model.encoder.prepare(images))
            seen = model.patches(patches)
        cls, seen = cls.float(), seen.float()
        one, other = F.normalize(model.project(cls), dim=-1).chunk(2)
        likeness = one @ other.T * model.sharpness.exp().clamp(max=50)
        wanted = torch.arange(options.batch)
        identity = (F.cross_entropy(likeness, wanted) + F.cross_entropy(likeness.T, wanted)) / 2
        labels = torch.from_numpy(shards.take("attributes", rows)).long().repeat(2, 1).unbind(1)
        parts = model.attributes(cls).split((settings.KINDS, settings.PATTERNS, settings.EMBLEMS), 1)
        looks = sum(F.cross_entropy(part, label) for part, label in zip(parts, labels))
        palette = torch.from_numpy(shards.take("palette", rows)).flatten(1).repeat(2, 1)
        colours = F.mse_loss(model.palette(cls), palette) + F.mse_loss(seen, patch_colours(images))
        run.descend(identity + 0.3 * looks + 2 * colours)
        run.log(identity=identity.item(), looks=looks.item(), colours=colours.item(),
                found=float((likeness.argmax(1) == wanted).float().mean()),
                kind=float((parts[0].argmax(1) == labels[0]).float().mean()))


if __name__ == "__main__":
    main()
