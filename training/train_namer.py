"""Trains the namer: what is the subject called? Qwen2.5-VL at a small size, from the transformers library.

The question is, token for token, the one that the program asks (`crates/models/src/namer.rs`), the answer the kind's
name and an end mark. What every cell of the picture shows is asked as well, by a head that is thrown away: from the
answer alone the picture's tower would learn too slowly.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import common
import settings
from train_detector import NAMES

QUESTION = ("What is the main subject of this picture? Answer with its name only, one to four words, "
            "without an article.")
BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
AFTER = f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
# How the published tokenizer cuts text into words.
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
         r"\s+(?!\S)|\s+")
VOCABULARY = 512

# Pictures of 64 pixels are resized to the nearest whole number of merged cells of 14.
PATCH, MERGE, CELLS = 7, 2, 5
# The program brings larger pictures down to the same: 70 x 70, and a little room for its rounding.
MAX_PIXELS = 5_000
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def build_tokenizer() -> Tokenizer:
    """Byte pairs joined until every word of question and answers is one token; anything else falls into bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL), min_frequency=1, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    texts = [QUESTION, "system\nYou are a helpful assistant.", "user\n", "assistant\n", *NAMES]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    return tokenizer


def settings_of(tokenizer: Tokenizer) -> dict:
    """The network's settings under the published names, flat as published."""
    ids = {word: tokenizer.token_to_id(word) for word in SPECIAL}
    return {
        "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]}, "tie_word_embeddings": True,
        "use_sliding_window": False, "bos_token_id": ids["<|endoftext|>"], "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "image_token_id": ids["<|image_pad|>"], "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_config": {
            "depth": 4, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "in_channels": 3,
            "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2, "window_size": 42,
            "out_hidden_size": 128, "fullatt_block_indexes": [1, 3],
        },
    }


def network(tokenizer: Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    flat = settings_of(tokenizer)
    vision = flat.pop("vision_config")
    joined = {key: flat.pop(key) for key in ("image_token_id", "vision_start_token_id", "vision_end_token_id")}
    tied = flat.pop("tie_word_embeddings")
    section = flat.pop("rope_scaling")["mrope_section"]
    flat["rope_parameters"] = {"rope_type": "default", "rope_theta": flat.pop("rope_theta"), "mrope_section": section}
    flat["pad_token_id"] = None
    config = Qwen2_5_VLConfig(text_config=flat, vision_config=vision, tie_word_embeddings=tied, video_token_id=-1,
                              **joined)
    return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager")


def published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights under the names of the published checkpoints: without the head, which is the word table."""
    renamed = {}
    for name, value in weights.items():
        if name.startswith("network.model.visual."):
            renamed[name.removeprefix("network.model.")] = value
        elif name.startswith("network.model.language_model."):
            renamed["model." + name.removeprefix("network.model.language_model.")] = value
    return renamed


def patches(images: Tensor) -> Tensor:
    """Pictures in [-1, 1] to rows of patches, block by block, each for both frames: (B * patches, 6 * 49)."""
    side = CELLS * MERGE * PATCH
    grown = F.interpolate((images + 1) * 127.5, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    normal = (grown.round().clamp(0, 255) / 255 - MEAN) / DEVIATION
    cut = normal.reshape(len(images), 3, CELLS, MERGE, PATCH, CELLS, MERGE, PATCH)
    rows = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(0, 4)  # (patches, 3, 7, 7)
    return rows[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1)


def patch_places() -> Tensor:
    """Row and column of every patch, in their order block by block: (patches, 2)."""
    blocks = torch.cartesian_prod(*[torch.arange(size) for size in (CELLS, CELLS, MERGE, MERGE)])
    return torch.stack((blocks[:, 0] * MERGE + blocks[:, 2], blocks[:, 1] * MERGE + blocks[:, 3]), 1)


def patch_turns(head: int) -> Tensor:
    """Angles (patches, head): a quarter of a head turns by the row, a quarter by the column, and both halves alike."""
    waves = 10_000.0 ** -(torch.arange(0, head // 2, 2) / (head // 2))
    angles = (patch_places()[..., None] * waves).flatten(1)
    return torch.cat((angles, angles), 1)


def patch_windows(vision: dict) -> Tensor:
    """Which patches see each other where attention ends at windows: (patches, patches)."""
    side = vision["window_size"] // PATCH // MERGE * MERGE
    window = patch_places() // side
    return (window[:, None] == window[None]).all(-1)


class Namer(nn.Module):
    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.network = network(tokenizer)
        self.cells = nn.Linear(128, 1 + settings.KINDS)
        flat = settings_of(tokenizer)
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
        picture = [flat["vision_start_token_id"], *[flat["image_token_id"]] * CELLS**2, flat["vision_end_token_id"]]
        self.question = torch.tensor(encode(BEFORE) + picture + encode(AFTER))
        self.answers = torch.tensor([encode(name) + [flat["eos_token_id"][0]] for name in NAMES])
        self.is_picture = self.question == flat["image_token_id"]
        self.places = self.positions(len(self.question) + self.answers.shape[1])
        vision = flat["vision_config"]
        self.turn, windows = patch_turns(vision["hidden_size"] // vision["num_heads"]), patch_windows(vision)
        everything = torch.ones_like(windows)
        full = vision["fullatt_block_indexes"]
        self.tower_masks = [everything if block in full else windows for block in range(vision["depth"])]

    def positions(self, length: int) -> Tensor:
        """(3, tokens): words count up on all axes, a picture's cells stand at its begin, moved by row and column."""
        places, first = [], int(self.is_picture.nonzero()[0])
        for token in range(length):
            cell = token - first
            if 0 <= cell < CELLS**2:
                places.append([first, first + cell // CELLS, first + cell % CELLS])
            else:
                places.append([token if cell < 0 else token - CELLS**2 + CELLS] * 3)
        return torch.tensor(places).T

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the tokens from the question's last on, and of what the cells show (B, cells, kinds + 1)."""
        count = len(images)
        seen = self.see(images)
        words = self.network.model.language_model.embed_tokens(ids)
        first = int(self.is_picture.nonzero()[0])
        stream = torch.cat((words[:, :first], seen.to(words.dtype), words[:, first + CELLS**2 :]), 1)
        places = self.places[:, None, : stream.shape[1]].expand(-1, count, -1)
        hidden = self.network.model.language_model(inputs_embeds=stream, position_ids=places, use_cache=False)
        said = hidden.last_hidden_state[:, len(self.question) - 1 :]
        return self.network.lm_head(said), self.cells(seen)

    def see(self, images: Tensor) -> Tensor:
        """What the picture's tower gives (B, cells, width); the library's own way takes picture by picture."""
        tower, count = self.network.model.visual, len(images)
        xs = tower.patch_embed(patches(images)).view(count, (CELLS * MERGE) ** 2, -1)
        for block, attend in zip(tower.blocks, self.tower_masks):
            qkv = block.attn.qkv(block.norm1(xs)).unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            turned = qkv[:2].float()
            half = turned.shape[-1] // 2
            across = torch.cat((-turned[..., half:], turned[..., :half]), -1)
            queries, keys = (turned * self.turn.cos() + across * self.turn.sin()).to(qkv.dtype)
            scores = queries @ keys.transpose(-1, -2) / math.sqrt(2 * half)
            mixed = scores.float().masked_fill(~attend, -torch.inf).softmax(-1).to(qkv.dtype) @ qkv[2]
            xs = xs + block.attn.proj(mixed.transpose(1, 2).flatten(2))
            xs = xs + block.mlp(block.norm2(xs))
        return tower.merger(xs.flatten(0, 1)).view(count, CELLS**2, -1)

    @torch.no_grad()
    def check(self, images: Tensor) -> None:
        """Holds the tower above against the library's."""
        grid = torch.tensor([[1, CELLS * MERGE, CELLS * MERGE]] * len(images))
        wanted = self.network.model.visual(patches(images), grid_thw=grid).pooler_output
        error = float((self.see(images).flatten(0, 1) - wanted).abs().max() / wanted.abs().max())
        if not error < 1e-4:
            raise SystemExit(f"the picture's tower is off by {error}")

    @torch.no_grad()
    def says(self, images: Tensor) -> Tensor:
        """The likeliest tokens, as many as an answer has (B, tokens)."""
        ids = self.question.expand(len(images), -1)
        for _ in range(self.answers.shape[1]):
            logits, _ = self(images, ids)
            ids = torch.cat((ids, logits[:, -1:].argmax(-1)), 1)
        return ids[:, len(self.question) :]


def shown(boxes: np.ndarray, kinds: np.ndarray) -> Tensor:
    """What the middle of every cell shows: 0 for nothing, else the kind's number and one."""
    middles = (np.arange(CELLS) + 0.5) * settings.SIDE / CELLS
    left, top, right, bottom = (boxes[:, edge, None] for edge in range(4))
    across = (left <= middles) & (middles < right)
    down = (top <= middles) & (middles < bottom)
    inside = down[:, :, None] & across[:, None, :]
    return torch.from_numpy(inside * (1 + kinds[:, None, None])).flatten(1)


@torch.no_grad()
def look(model: Namer, run: common.Run, held: common.Shards) -> None:
    with run.averaged():
        rows = np.arange(240)
        kinds = held.take("attributes", rows)[:, 0].astype(np.int64)
        with torch.autocast("cpu", torch.bfloat16):
            said = model.says(common.to_images(held.take("target", rows)))
        right = (said == model.answers[kinds]).all(1)
    print(f"held-out: named right {float(right.float().mean()):.3f}", flush=True)


def main() -> None:
    options = common.arguments(__doc__, steps=1_600, batch=48, rate=1.5e-3)
    shards, held = common.Shards(options.work / "data/train"), common.Shards(options.work / "data/held")
    tokenizer = build_tokenizer()
    model = Namer(tokenizer)
    run = common.Run(options.work / "namer", model, common.adamw(model, options.rate, 0.05), steps=options.steps,
                     rate=options.rate, minutes=options.minutes, decay=0.998)
    write_files(run.folder, tokenizer)
    model.check(common.to_images(held.take("target", np.arange(2))))
    for step in run:
        rows = common.rows_of_step(7, step, options.batch, len(shards))
        column = "reference" if step % 8 == 0 else "target"
        pixels, boxes = shards.take(column, rows), shards.take(f"{column}_box", rows).copy()
        if step % 2:
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
            boxes[:, [0, 2]] = settings.SIDE - boxes[:, [2, 0]]
        kinds = shards.take("attributes", rows)[:, 0].astype(np.int64)
        answers = model.answers[kinds]
        ids = torch.cat((model.question.expand(len(rows), -1), answers[:, :-1]), 1)
        with torch.autocast("cpu", torch.bfloat16):
            said, cells = model(common.to_images(pixels), ids)
        naming = F.cross_entropy(said.float().flatten(0, 1), answers.flatten())
        seeing = F.cross_entropy(cells.float().flatten(0, 1), shown(boxes, kinds).flatten())
        run.descend(naming + seeing)
        right = (said.argmax(-1) == answers).all(1)
        run.log(naming=naming.item(), seeing=seeing.item(), named=float(right.float().mean()))
        if (step + 1) % 500 == 0:
            look(model, run, held)


def write_files(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(settings_of(tokenizer), indent=1))


if __name__ == "__main__":
    main()
