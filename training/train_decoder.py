"""Trains the decoder that is shipped, on bits that stay as they are.

The transformer learns the bits of a fixed encoder of 64 x 64 pixels; what to make of them may be learned beside it, by a
decoder of other widths and with one level more, which draws 128 x 128. Nothing else has to be trained anew.

Four things are compared with the world's own picture: the result averaged to 64 x 64, by what PSNR measures; each pixel of
128 x 128 and the differences of neighbours; the maps of the critic (`train_markings.py --run critic`), which has learned to
tell markings apart; and from step `--adversary_from` on, small areas, by a discriminator that learns beside the decoder. Most
terms are logarithms, so that pictures and terms count alike whatever their size. Some pictures' bits are flipped, as the
transformer mistakes some.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import common
import settings
from networks.bsq import BsqTokenizer, bits_to_codes, resize, shrink
from networks.markings import MarkingsJudge
from networks.patches import PatchDiscriminator
from train_tokenizer import edges, psnr


class Decoder(nn.Module):
    """The decoder under the names that it has in the tokenizer, and the discriminator, which is not shipped."""

    def __init__(self):
        super().__init__()
        self.decoder = BsqTokenizer(settings.SHIPPED_TOKENIZER).decoder
        self.discriminator = PatchDiscriminator()

    def judged(self, images: Tensor) -> Tensor:
        """The discriminator's scores, with gradients for the images alone."""
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        return torch.func.functional_call(self.discriminator, fixed, (images,))


def shallower_start() -> str:
    """The bundle's file, if its decoder still has one level less."""
    path = common.shipped_files("decoder")[-1]
    top = f"decoder.up.{len(settings.SHIPPED_TOKENIZER.decoder_multipliers) - 1}."
    with safe_open(path, "pt") as file:
        return "" if any(name.startswith(top) for name in file.keys()) else str(path)


def deepened(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a decoder with one level less, on top of which the new level changes nothing at first."""
    grown = {}
    for name, value in weights.items():
        parts = name.split(".")
        if name.startswith("decoder.up."):
            parts[2] = str(int(parts[2]) + 1)
        grown[".".join(parts)] = value.float()
    for name, value in own.items():
        if name.startswith("decoder.up.0.") and ".conv2." in name:
            grown[name] = torch.zeros_like(value)
        elif name == "decoder.up.1.upsample.conv.conv.weight":
            grown[name] = nn.init.dirac_(torch.zeros_like(value))
        elif name == "decoder.up.1.upsample.conv.conv.bias":
            grown[name] = torch.zeros_like(value)
    return {name: value for name, value in grown.items() if name in own}


@torch.no_grad()
def code_sum(tokenizer: BsqTokenizer, images: Tensor, flips: Tensor | None = None, seed: int = 0) -> Tensor:
    """The codes of all scales, (B, bits, 8, 8), with that share of each picture's bits flipped."""
    with torch.autocast("cpu", enabled=False):
        latent = tokenizer.encoder(images)
    generator = torch.Generator().manual_seed(seed)
    summed = torch.zeros_like(latent)
    for size in settings.SCHEDULE:
        bits = (shrink(latent - summed, size) > 0).permute(0, 2, 3, 1)
        if flips is not None:
            bits = bits ^ (torch.rand(bits.shape, generator=generator) < flips[:, None, None, None])
        summed = summed + resize(bits_to_codes(bits), latent.shape[-2:])
    return summed


def weights_of(boxes: np.ndarray, side: int, inside: float = 3.0) -> Tensor:
    """How much each pixel counts (B, 1, side, side): subjects are small, and what one looks for."""
    weights = torch.ones(len(boxes), 1, side, side)
    for index, (left, top, right, bottom) in enumerate(boxes):
        weights[index, :, top:bottom, left:right] = inside
    return weights / weights.mean((1, 2, 3), keepdim=True)


def pixel_loss(decoded: Tensor, fine: Tensor, coarse: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """By squares at the size of the bits, and by absolutes and edges at the size of the picture."""
    small = (F.avg_pool2d(decoded, 2) - coarse).div(2).square().mean((1, 2, 3))
    absolute = ((decoded - fine).abs() * weights).mean((1, 2, 3))
    lines = (edges(decoded) - edges(fine)).abs().mean((1, 2, 3))
    return torch.log(small + 1e-4).mean(), torch.log(absolute + lines + 1e-3).mean()


def critic_loss(critic: MarkingsJudge, decoded: Tensor, fine: Tensor) -> Tensor:
    """How far the critic's maps of both are apart, over all layers alike."""
    with torch.no_grad():
        wanted = critic.maps(fine)
    terms = []
    for found, target in zip(critic.maps(decoded), wanted):
        apart = (found.float() - target.float()).abs().mean((1, 2, 3)) / target.float().abs().mean()
        terms.append(torch.log(apart + 1e-2).mean())
    return sum(terms) / len(terms)


def loss_of(model: Decoder, critic: MarkingsJudge | None, decoded: Tensor, wanted: tuple[Tensor, Tensor, Tensor],
            shares: tuple[float, float]) -> tuple[Tensor, dict[str, float]]:
    """The loss of decoder and discriminator, and its terms; `shares` are the critic's and the discriminator's."""
    fine, coarse, weights = wanted
    small, pixels = pixel_loss(decoded.float(), fine, coarse, weights)
    loss = small + pixels
    terms = {"small": small.item(), "pixels": pixels.item(), "critic": 0.0, "told": 0.0}
    if critic is not None:
        apart = critic_loss(critic, decoded, fine)
        loss = loss + shares[0] * apart
        terms["critic"] = apart.item()
    if shares[1]:
        told = F.relu(1 - model.discriminator(fine)).mean() + F.relu(1 + model.discriminator(decoded.detach())).mean()
        loss = loss + told - shares[1] * model.judged(decoded).mean()
        terms["told"] = told.item()
    return loss, terms


@torch.no_grad()
def look(run: common.Run, model: Decoder, tokenizer: BsqTokenizer, held: tuple[Tensor, Tensor]) -> None:
    """PSNR of the averaged decoder on held-out identities at both sizes, and a sheet: the world's above the decoder's."""
    coarse, fine = held
    with run.averaged():
        decoded = model.decoder(code_sum(tokenizer, coarse))
    print(f"held-out PSNR {psnr(F.avg_pool2d(decoded, 2), coarse):.2f} dB at 64, {psnr(decoded, fine):.2f} dB at 128",
          flush=True)
    pairs = torch.stack((fine[:24].unflatten(0, (3, 8)), decoded[:24].unflatten(0, (3, 8))), 1).flatten(0, 2)
    Image.fromarray(common.tile(common.to_bytes(pairs), 8)).save(run.folder / "sheet.png")


def load_critic(work: Path) -> MarkingsJudge:
    critic = MarkingsJudge(settings.CRITIC)
    critic.load_state_dict(common.averaged(work / "critic"))
    return critic.requires_grad_(False).eval()


def main() -> None:
    options = common.arguments(__doc__, steps=9_000, batch=8, rate=6e-4, start="", critic=0.5, adversary=0.05,
                               adversary_from=6_500, look=250)
    start = options.start or shallower_start()
    coarse_shards, fine_shards = (common.Shards(options.work / "data" / name) for name in ("decoder", "fine"))
    held = tuple(common.to_images(common.Shards(options.work / "data" / name).take("target", np.arange(96)))
                 for name in ("held", "held128"))
    tokenizer = BsqTokenizer(settings.TOKENIZER)
    tokenizer.load_state_dict(common.averaged(options.work / "tokenizer"))
    critic = load_critic(options.work) if options.critic else None
    model = Decoder().to(memory_format=torch.channels_last)
    run = common.Run(options.work / "decoder", model, common.adamw(model, options.rate, 1e-4), steps=options.steps,
                     rate=options.rate, minutes=options.minutes, warmup=50, decay=0.995, is_committed=not start)
    if start:
        run.start_from(deepened(load_file(start), model.state_dict()))
    for step in run:
        rows = common.rows_of_step(11, step, options.batch, len(fine_shards))
        coarse = common.to_images(coarse_shards.take("target", rows))
        fine = common.to_images(fine_shards.take("target", rows))
        weights = weights_of(fine_shards.take("target_box", rows), settings.DRAWN_SIDE)
        source = np.random.default_rng([11, step])
        flips = torch.from_numpy(source.uniform(0, 0.08, options.batch) * (source.random(options.batch) < 0.4)).float()
        summed = code_sum(tokenizer, coarse, flips, step)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.decoder(summed.contiguous(memory_format=torch.channels_last))
            adversary = options.adversary if step >= options.adversary_from else 0.0
            loss, terms = loss_of(model, critic, decoded, (fine, coarse, weights), (options.critic, adversary))
        run.descend(loss)
        run.log(psnr=psnr(F.avg_pool2d(decoded.detach().float(), 2), coarse), **terms)
        if (step + 1) % options.look == 0:
            look(run, model, tokenizer, held)


if __name__ == "__main__":
    main()
