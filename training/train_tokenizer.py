"""Trains the visual tokenizer: pictures to bits at five scales and back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import common
import settings
from networks.bsq import BsqTokenizer, bits_to_codes, resize, shrink


def straight_through(latent: Tensor, schedule, scales: int) -> tuple[Tensor, Tensor, Tensor]:
    """(code sum with the latent's gradient, commitment loss, how evenly bits are used: 0 is best)."""
    summed = torch.zeros_like(latent)
    uneven = latent.new_zeros(())
    for size in schedule[:scales]:
        residual = shrink(latent - summed.detach(), size)
        codes = bits_to_codes((residual > 0).permute(0, 2, 3, 1))
        share = torch.sigmoid(residual * 4 * math.sqrt(latent.shape[1])).mean((0, 2, 3))
        uneven = uneven + (share - 0.5).square().mean() / scales
        summed = summed + resize(codes, latent.shape[-2:])
    commitment = F.mse_loss(latent, summed)
    return latent + (summed - latent).detach(), commitment, uneven


def edges(image: Tensor) -> Tensor:
    """Differences of neighbours, right and below."""
    return torch.cat(((image[..., 1:, :-1] - image[..., :-1, :-1]), (image[..., :-1, 1:] - image[..., :-1, :-1])), 1)


def subject_weights(boxes: np.ndarray, inside: float = 3.0) -> Tensor:
    """How much each pixel counts (B, 1, H, W): subjects are small, and what one looks for."""
    weights = torch.ones(len(boxes), 1, settings.SIDE, settings.SIDE)
    for index, (left, top, right, bottom) in enumerate(boxes):
        weights[index, :, top:bottom, left:right] = inside
    return weights / weights.mean((1, 2, 3), keepdim=True)


def distance(decoded: Tensor, images: Tensor, weights: Tensor) -> Tensor:
    """Squares, absolutes, edges, and colours of small areas, which the eye sees first."""
    error = decoded - images
    areas = F.avg_pool2d(error, 4).square() * F.avg_pool2d(weights, 4)
    fine = (error.square() + 0.2 * error.abs()) * weights
    return fine.mean() + 2 * areas.mean() + 0.2 * F.l1_loss(edges(decoded), edges(images))


def psnr(decoded: Tensor, images: Tensor) -> float:
    error = (decoded.clamp(-1, 1) - images).div(2).square().mean((1, 2, 3))
    return float((-10 * torch.log10(error)).mean())


@torch.no_grad()
def look(model: BsqTokenizer, run: common.Run, shards: common.Shards) -> float:
    """PSNR on held-out pictures, and a sheet of originals above reconstructions."""
    with run.averaged():
        images = common.to_images(shards.take("target", np.arange(96)))
        summed, _, _ = straight_through(model.encoder(images), settings.SCHEDULE, len(settings.SCHEDULE))
        decoded = model.decoder(summed)
    pairs = torch.stack((images[:24].unflatten(0, (2, 12)), decoded[:24].unflatten(0, (2, 12))), 1).flatten(0, 2)
    Image.fromarray(common.tile(common.to_bytes(pairs), 12)).save(run.folder / "sheet.png")
    return psnr(decoded, images)


def main() -> None:
    options = common.arguments(__doc__, steps=10_500, batch=16, rate=2e-3, start="")
    shards, held = common.Shards(options.work / "data/train"), common.Shards(options.work / "data/held")
    model = BsqTokenizer(settings.TOKENIZER)
    run = common.Run(options.work / "tokenizer", model, common.adamw(model, options.rate, 1e-4), steps=options.steps,
                     rate=options.rate, minutes=options.minutes)
    if options.start:
        run.start_from(common.averaged(Path(options.start)))
    for step in run:
        rows = common.rows_of_step(1, step, options.batch, len(shards))
        column = "reference" if step % 8 == 0 else "target"
        images = common.to_images(shards.take(column, rows))
        weights = subject_weights(shards.take(f"{column}_box", rows))
        scales = 1 + step // 32 % 4 if step % 32 == 5 else len(settings.SCHEDULE)
        with torch.autocast("cpu", torch.bfloat16):
            latent = model.encoder(images)
        summed, commitment, uneven = straight_through(latent.float(), settings.SCHEDULE, scales)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.decoder(summed)
        decoded = decoded.float()
        loss = distance(decoded, images, weights)
        run.descend(loss + 0.2 * commitment + 0.1 * uneven)
        if scales == len(settings.SCHEDULE):
            run.log(loss=loss.item(), commitment=commitment.item(), uneven=uneven.item(), psnr=psnr(decoded.detach(), images))
        if (step + 1) % 500 == 0:
            print(f"held-out PSNR {look(model, run, held):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
