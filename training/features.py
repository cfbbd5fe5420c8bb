"""Runs the frozen networks over the world's pairs once and stores what the transformer learns from.

One file a shard: the target's latent (from which bits are made anew at every step, since self-correction changes them),
the subject's class token, patches and content posterior; and one file with the features of every caption.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import common
import settings
from networks.bsq import BsqTokenizer
from networks.dinov2 import Dinov2
from networks.flux_vae import FluxVae
from networks.t5 import T5Encoder
from train_text_encoder import encode, padded, tokenizer


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix):]: value for name, value in weights.items() if name.startswith(prefix)}


class Frozen:
    """The networks that are done, with the weights as they are shipped: rounded to half precision."""

    def __init__(self, work: Path):
        def load(model: torch.nn.Module, weights: dict[str, Tensor]):
            model.load_state_dict({name: value.half().float() for name, value in weights.items()})
            return model.eval()

        self.tokenizer = load(BsqTokenizer(settings.TOKENIZER), common.averaged(work / "tokenizer"))
        self.dinov2 = load(Dinov2(settings.DINOV2), part(common.averaged(work / "dinov2"), "encoder."))
        self.vae = load(FluxVae(settings.FLUX_VAE), common.averaged(work / "flux_vae"))
        self.text = load(T5Encoder(settings.TEXT_ENCODER), part(common.averaged(work / "text_encoder"), "encoder."))
        self.words = tokenizer()

    @torch.no_grad()
    def subject(self, images: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            mean, logvar = self.vae.encoder(images)
        cls, patches = self.dinov2(self.dinov2.prepare(images))
        flat = lambda x: x.float().flatten(2).transpose(1, 2)  # noqa: E731
        return {"cls": cls, "patches": patches, "mean": flat(mean), "logvar": flat(logvar)}

    @torch.no_grad()
    def captions(self, captions: list[str]) -> list[Tensor]:
        rows = encode(captions, self.words)
        ids, visible = padded(rows)
        features = self.text(ids, visible)
        return [features[index, : len(row)] for index, row in enumerate(rows)]

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.tokenizer.encoder(images).float()


def store(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({name: value.half().contiguous() for name, value in tensors.items()}, partial)
    os.replace(partial, path)


def main() -> None:
    options = common.arguments(__doc__, folder="train", batch=64, shards=0)
    shards = common.Shards(options.work / "data" / options.folder)
    frozen = Frozen(options.work)
    out = options.work / "features" / options.folder
    out.mkdir(parents=True, exist_ok=True)
    count = options.shards or len(shards.paths)
    if not (out / "captions.words").exists():
        captions = sorted(set(shards.captions()[: shards.starts[count]]))
        features = [row for i in range(0, len(captions), 64) for row in frozen.captions(captions[i : i + 64])]
        store({caption: row for caption, row in zip(captions, features)}, out / "captions.words")
    for path, start, end in zip(shards.paths[:count], shards.starts, shards.starts[1:]):
        target = out / path.name
        if target.exists():
            continue
        parts: dict[str, list[Tensor]] = {}
        for first in range(start, end, options.batch):
            rows = np.arange(first, min(first + options.batch, end))
            entry = frozen.subject(common.to_images(shards.take("reference", rows)))
            entry["latent"] = frozen.latents(common.to_images(shards.take("target", rows)))
            for name, value in entry.items():
                parts.setdefault(name, []).append(value)
        store({name: torch.cat(values) for name, values in parts.items()}, target)
        print(f"{target.name} written", flush=True)


if __name__ == "__main__":
    main()
