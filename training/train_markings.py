"""Trains the judge of markings, on subjects cut out of real renderings of 128 x 128: which emblem and which pattern each has.

Boxes are moved a little, as a detector misplaces them. Half of the pictures lose some of their fine detail on the way in,
down to that of 64 x 64, so that the judge looks at what a picture shows and not at how sharp it is. `--run critic` trains
another network, from another start and on sharp pictures only, whose maps the decoder's loss compares.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

import common
import settings
from networks.markings import MarkingsJudge
from train_judge import softened

CONFIGS = {"markings": settings.MARKINGS, "critic": settings.CRITIC}
SEEDS = {"markings": 12, "critic": 13}


def right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def labels_of(shards: common.Shards, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    attributes = torch.from_numpy(shards.take("attributes", rows).astype(np.int64))
    return attributes[:, 2], attributes[:, 1]


def marked_rows(shards: common.Shards) -> np.ndarray:
    """The rows whose subjects have an emblem."""
    return np.flatnonzero(shards.take("attributes", np.arange(len(shards)))[:, 2])


def cut(images: torch.Tensor, boxes: np.ndarray) -> torch.Tensor:
    """The boxes (left, top, right, bottom) of the pictures, each at 64 x 64."""
    near, far = (torch.from_numpy(edges / images.shape[-1] * 2 - 1) for edges in (boxes[:, :2], boxes[:, 2:]))
    turn = torch.diag_embed((far - near) / 2)  # from the cut-out's coordinates, -1 to 1, to the picture's
    place = torch.cat((turn, ((far + near) / 2)[..., None]), 2).float()
    grid = F.affine_grid(place, [len(images), 3, settings.SIDE, settings.SIDE], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def moved(boxes: np.ndarray, source: np.random.Generator, most: float = 0.12) -> np.ndarray:
    """Boxes with each edge moved by up to that share of the side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return (boxes + source.uniform(-most, most, boxes.shape) * np.tile(sides, 2)).astype(np.float32)


@torch.no_grad()
def look(run: common.Run, model: MarkingsJudge, held: common.Shards) -> None:
    """On held-out identities: sharp, and with the detail of 64 x 64."""
    rows = np.arange(500)
    boxes = held.take("target_box", rows).astype(np.float32)
    images = common.to_images(held.take("target", rows))
    coarse = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear", align_corners=False)
    emblems, patterns = labels_of(held, rows)
    with run.averaged():
        for name, pictures in (("sharp", images), ("64 x 64", coarse)):
            emblem, pattern, _ = model(cut(pictures, boxes))
            marked = emblems > 0
            print(f"held-out, {name}: emblem {right(emblem, emblems):.3f}, where there is one "
                  f"{right(emblem[marked], emblems[marked]):.3f}, pattern {right(pattern, patterns):.3f}", flush=True)


def main() -> None:
    options = common.arguments(__doc__, steps=3_000, batch=32, rate=2e-3, run="markings", look=250)
    shards, held = common.Shards(options.work / "data/fine"), common.Shards(options.work / "data/held128")
    seed, marked = SEEDS[options.run], marked_rows(shards)
    torch.manual_seed(seed)
    model = MarkingsJudge(CONFIGS[options.run])
    run = common.Run(options.work / options.run, model, common.adamw(model, options.rate, 0.01), steps=options.steps,
                     rate=options.rate, minutes=options.minutes, warmup=50, decay=0.995)
    for step in run:
        rows = common.rows_of_step(seed, step, options.batch, len(shards))
        # Two of three subjects have no emblem; of a batch, one of three.
        rows[::2] = marked[rows[::2] % len(marked)]
        source = np.random.default_rng([seed, step])
        images = common.to_images(shards.take("target", rows))
        if options.run == "markings":
            images = softened(images, source, 1.0)
        emblems, patterns = labels_of(shards, rows)
        with torch.autocast("cpu", torch.bfloat16):
            emblem, pattern, kind = model(cut(images, moved(shards.take("target_box", rows), source)))
        kinds = torch.from_numpy(shards.take("attributes", rows)[:, 0].astype(np.int64))
        loss = 2 * F.cross_entropy(emblem.float(), emblems) + F.cross_entropy(pattern.float(), patterns)
        # The kind is learned at once, and where its markings are.
        loss = loss + F.cross_entropy(kind.float(), kinds)
        run.descend(loss)
        run.log(loss=loss.item(), emblem=right(emblem, emblems), pattern=right(pattern, patterns), kind=right(kind, kinds))
        if (step + 1) % options.look == 0:
            look(run, model, held)


if __name__ == "__main__":
    main()
