"""Trains the text encoder: from a caption with holes, say the missing words, and what the caption is about."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

import common
import settings
from networks.t5 import T5Encoder

UNKNOWN = 2  # stands for a missing word


class TextTrainer(nn.Module):
    """The encoder, and heads that are thrown away."""

    def __init__(self):
        super().__init__()
        self.encoder = T5Encoder(settings.TEXT_ENCODER)
        nn.init.normal_(self.encoder.shared.weight, std=0.5)
        width = settings.TEXT_ENCODER.d_model
        self.words = nn.Linear(width, settings.TEXT_ENCODER.vocab_size)
        self.topic = nn.Linear(width, settings.KINDS + settings.SCENES + settings.LIGHTS)

    def forward(self, ids: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(ids, visible)
        mean = (x * visible[..., None]).sum(1) / visible.sum(1, keepdim=True)
        return self.words(x), self.topic(mean)


def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(common.ROOT / "bundles/mini/tokenizer.json"))


def encode(captions: list[str], words: Tokenizer) -> list[list[int]]:
    """Ids without padding; the end mark is id 1."""
    ids = [entry.ids for entry in words.encode_batch(captions, add_special_tokens=False)]
    return [row + [settings.TEXT_ENCODER.eos_token_id] for row in ids]


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    visible = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return ids, visible


def main() -> None:
    options = common.arguments(__doc__, steps=2_500, batch=64, rate=1e-3)
    shards = common.Shards(options.work / "data/train")
    rows = encode(shards.captions(), tokenizer())
    everything = np.arange(len(shards))
    kinds, places = shards.take("attributes", everything)[:, :1], shards.take("place", everything)
    topics = torch.from_numpy(np.concatenate((kinds, places), 1)).long()
    model = TextTrainer()
    run = common.Run(options.work / "text_encoder", model, common.adamw(model, options.rate), steps=options.steps,
                     rate=options.rate, minutes=options.minutes)
    for step in run:
        chosen = common.rows_of_step(2, step, options.batch, len(shards))
        ids, visible = padded([rows[row] for row in chosen])
        generator = torch.Generator().manual_seed(step)
        holes = (torch.rand(ids.shape, generator=generator) < 0.15) & visible & (ids != 1)
        words, topic = model(ids.masked_fill(holes, UNKNOWN), visible)
        missing = F.cross_entropy(words[holes], ids[holes]) if holes.any() else words.sum() * 0
        kind, scene, light = topic.split((settings.KINDS, settings.SCENES, settings.LIGHTS), 1)
        wanted = topics[chosen].unbind(1)
        about = sum(F.cross_entropy(part, target) for part, target in zip((kind, scene, light), wanted))
        run.descend(missing + about)
        right = [float((part.argmax(1) == target).float().mean()) for part, target in zip((kind, scene, light), wanted)]
        run.log(missing=missing.item(), about=about.item(), kind=right[0], scene=right[1], light=right[2])


if __name__ == "__main__":
    main()
