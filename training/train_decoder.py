"""Trains the decoder that is shipped, on bits that stay as they are.

The transformer learns the bits of a fixed encoder; what to make of them may be learned beside it, by a decoder wider than
the one that the encoder was trained with, and nothing else has to be trained anew. It sees pictures of its own, twice as
many as the others, and minimises what PSNR measures: the logarithm of each picture's mean square.
"""

from __future__ import annotations

import numpy as np
import torch

import common
import settings
from networks.bsq import BsqTokenizer
from train_tokenizer import psnr, straight_through


class Decoder(torch.nn.Module):
    """The decoder alone, under the names that it has in the tokenizer."""

    def __init__(self):
        super().__init__()
        self.decoder = BsqTokenizer(settings.SHIPPED_TOKENIZER).decoder


@torch.no_grad()
def code_sum(tokenizer: BsqTokenizer, images: torch.Tensor) -> torch.Tensor:
    """The codes of all scales, (B, bits, 8, 8)."""
    with torch.autocast("cpu", enabled=False):
        return straight_through(tokenizer.encoder(images), settings.SCHEDULE, len(settings.SCHEDULE))[0]


@torch.no_grad()
def held_out(run: common.Run, model: Decoder, summed: torch.Tensor, images: torch.Tensor) -> float:
    """PSNR of the averaged decoder on pictures of held-out identities."""
    with run.averaged():
        return psnr(model.decoder(summed), images)


def main() -> None:
    options = common.arguments(__doc__, steps=10_500, batch=16, rate=1.5e-3)
    pictures = common.Shards(options.work / "data/decoder")
    held = common.to_images(common.Shards(options.work / "data/held").take("target", np.arange(96)))
    tokenizer = BsqTokenizer(settings.TOKENIZER)
    tokenizer.load_state_dict(common.averaged(options.work / "tokenizer"))
    held_sum = code_sum(tokenizer, held)
    model = Decoder()
    run = common.Run(options.work / "decoder", model, common.adamw(model, options.rate, 1e-4), steps=options.steps,
                     rate=options.rate, minutes=options.minutes, warmup=50, decay=0.995)
    for step in run:
        images = common.to_images(pictures.take("target", common.rows_of_step(11, step, options.batch, len(pictures))))
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.decoder(code_sum(tokenizer, images))
        decoded = decoded.float()
        error = (decoded - images).div(2).square().mean((1, 2, 3))
        loss = torch.log(error + 1e-4).mean()
        run.descend(loss)
        run.log(loss=loss.item(), psnr=psnr(decoded.detach(), images))
        if (step + 1) % 500 == 0:
            print(f"held-out PSNR {held_out(run, model, held_sum, held):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
