"""Trains the visual tokenizer's decoder further, on bits that stay as they are.

The transformer learns the bits of a fixed encoder; the decoder may go on learning what to make of them without anything
else having to be trained anew. Starts from the tokenizer's run and reads the stored latents of `features.py`.
"""

from __future__ import annotations

import numpy as np
import torch

import common
import settings
from networks.bsq import BsqTokenizer
from train_tokenizer import distance, psnr, straight_through, subject_weights


class Decoder(torch.nn.Module):
    """The decoder alone, under the names that it has in the tokenizer."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        tokenizer = BsqTokenizer(settings.TOKENIZER)
        tokenizer.load_state_dict(weights)
        self.decoder = tokenizer.decoder


@torch.no_grad()
def held_out(run: common.Run, frozen: BsqTokenizer, images: torch.Tensor) -> float:
    """PSNR of the averaged decoder on pictures of held-out identities."""
    frozen.load_state_dict(run.average.values, strict=False)
    summed, _, _ = straight_through(frozen.encoder(images), settings.SCHEDULE, len(settings.SCHEDULE))
    return psnr(frozen.decoder(summed), images)


def main() -> None:
    options = common.arguments(__doc__, steps=6_000, batch=16, rate=1e-3)
    pictures, features = common.Shards(options.work / "data/train"), common.Shards(options.work / "features/train")
    held = common.to_images(common.Shards(options.work / "data/held").take("target", np.arange(96)))
    weights = common.averaged(options.work / "tokenizer")
    frozen, model = BsqTokenizer(settings.TOKENIZER), Decoder(weights)
    frozen.load_state_dict(weights)
    run = common.Run(options.work / "decoder", model, common.adamw(model, options.rate, 1e-4), steps=options.steps,
                     rate=options.rate, minutes=options.minutes)
    for step in run:
        rows = common.rows_of_step(7, step, options.batch, len(features))
        images = common.to_images(pictures.take("target", rows))
        latents = torch.from_numpy(features.take("latent", rows)).float()
        summed, _, _ = straight_through(latents, settings.SCHEDULE, len(settings.SCHEDULE))
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.decoder(summed)
        decoded = decoded.float()
        loss = distance(decoded, images, subject_weights(pictures.take("target_box", rows)))
        run.descend(loss)
        run.log(loss=loss.item(), psnr=psnr(decoded.detach(), images))
        if (step + 1) % 500 == 0:
            print(f"held-out PSNR {held_out(run, frozen, held):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
