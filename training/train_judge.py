"""Trains the judge of `echogen-eval`, on real renderings of training identities only: kind, scene, and who it is.

Identities are pulled together over two pictures, the target in its scene and the reference on white. Some pictures are
softened on the way in, so that the judge looks at what a picture shows and not at how sharp it is.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import common
import settings
from networks.judge import Judge


class JudgeTrainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.judge = Judge(settings.JUDGE)
        self.sharpness = nn.Parameter(torch.tensor(2.3))


def softened(images: Tensor, source: np.random.Generator, most: float = 0.8) -> Tensor:
    """Half of the pictures as they are, the others without some of their fine detail."""
    smooth = F.interpolate(F.avg_pool2d(images, 2), size=images.shape[-2:], mode="bilinear", align_corners=False)
    share = torch.from_numpy(source.uniform(0, most, len(images)) * (source.random(len(images)) < 0.5)).float()
    return images.lerp(smooth, share[:, None, None, None])


def cells(boxes: np.ndarray, side: int = 8) -> Tensor:
    """Which cells of a picture lie in its box: (B, 1, side, side)."""
    middles = (np.arange(side) + 0.5) * settings.SIDE / side
    left, top, right, bottom = (boxes[:, edge, None] for edge in range(4))
    across, down = (left <= middles) & (middles < right), (top <= middles) & (middles < bottom)
    return torch.from_numpy(down[:, None, :, None] & across[:, None, None, :]).float()


@torch.no_grad()
def look(model: JudgeTrainer, run: common.Run, held: common.Shards) -> None:
    """On held-out identities, in scenes seen and unseen with their kinds."""
    judge = Judge(settings.JUDGE)
    judge.load_state_dict({name: value.half().float() for name, value in weights(run).items()})
    rows = np.arange(500)
    labels = held.take("attributes", rows).astype(np.int64)
    kind, scene, identity, _ = judge(common.to_images(held.take("target", rows)))
    _, _, wanted, _ = judge(common.to_images(held.take("reference", rows)))
    found = [(one @ other.T).argmax(1) == torch.arange(50) for one, other in zip(identity.split(50), wanted.split(50))]
    scenes = held.take("place", rows)[:, 0].astype(np.int64)
    right = lambda logits, label: float((logits.argmax(1) == torch.from_numpy(label)).float().mean())  # noqa: E731
    print(f"held-out: kind {right(kind, labels[:, 0]):.3f}, scene {right(scene, scenes):.3f}, "
          f"found among 50 {float(torch.cat(found).float().mean()):.3f}", flush=True)


def weights(run: common.Run) -> dict[str, Tensor]:
    return {name.removeprefix("judge."): value for name, value in run.average.values.items()
            if name.startswith("judge.")}


def main() -> None:
    options = common.arguments(__doc__, steps=1_000, batch=48, rate=2e-3)
    shards, held = common.Shards(options.work / "data/train"), common.Shards(options.work / "data/held")
    model = JudgeTrainer()
    run = common.Run(options.work / "judge", model, common.adamw(model, options.rate, 0.01), steps=options.steps,
                     rate=options.rate, minutes=options.minutes, warmup=50, decay=0.995)
    for step in run:
        rows = common.rows_of_step(8, step, options.batch, len(shards))
        source = np.random.default_rng([8, step])
        pictures = np.concatenate((shards.take("target", rows), shards.take("reference", rows)))
        boxes = np.concatenate((shards.take("target_box", rows), shards.take("reference_box", rows)))
        labels = torch.from_numpy(shards.take("attributes", rows)[:, 0]).long().repeat(2)
        scenes = torch.from_numpy(shards.take("place", rows)[:, 0]).long()
        with torch.autocast("cpu", torch.bfloat16):
            kind, scene, identity, place = model.judge(softened(common.to_images(pictures), source))
        one, other = identity.float().chunk(2)
        likeness = one @ other.T * model.sharpness.exp().clamp(max=40)
        wanted = torch.arange(options.batch)
        who = (F.cross_entropy(likeness, wanted) + F.cross_entropy(likeness.T, wanted)) / 2
        kinds = F.cross_entropy(kind.float(), labels)
        where = F.cross_entropy(scene.float()[: options.batch], scenes)
        inside = F.binary_cross_entropy_with_logits(place.float(), cells(boxes))
        run.descend(who + kinds + where + inside)
        right = lambda logits, label: float((logits.argmax(1) == label).float().mean())  # noqa: E731
        run.log(who=who.item(), found=right(likeness, wanted), kind=right(kind, labels),
                scene=right(scene[: options.batch], scenes))
        if (step + 1) % 250 == 0:
            look(model, run, held)


if __name__ == "__main__":
    main()
