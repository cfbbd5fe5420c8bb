"""Trains the detector: find the subject that a phrase names. GroundingDINO at a small size, from the transformers library.

Captions are lower-case names, each closed by a full stop; one of them is the subject's, at a random place among others.
Only one object is to be found in a picture, so it is matched to the one query that suits it best.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

import common
import settings

NAMES = ["mug", "robot", "fish", "teapot", "backpack", "rocket", "cactus", "car", "bird", "lamp", "boat", "cat"]
# Ids that GroundingDINO's text masks are made from: begin, end, full stop, question mark.
BEGIN, END, STOP, QUESTION = 101, 102, 1012, 1029
SIDE = 128


def config() -> GroundingDinoConfig:
    swin = SwinConfig(image_size=SIDE, embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=4,
                      drop_path_rate=0.0, out_features=["stage2", "stage3", "stage4"])
    bert = BertConfig(vocab_size=1_100, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                      intermediate_size=128, max_position_embeddings=64, hidden_dropout_prob=0.0,
                      attention_probs_dropout_prob=0.0)
    return GroundingDinoConfig(
        backbone_config=swin, text_config=bert, d_model=64, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_queries=20,
        num_feature_levels=4, dropout=0.0, max_text_len=32, use_pretrained_backbone=False,
    )


def vocabulary() -> dict[str, int]:
    """Words and letters on the ids that the published vocabulary leaves us around its special ones."""
    words = {"[PAD]": 0, "[UNK]": 100, "[CLS]": BEGIN, "[SEP]": END, "[MASK]": 103, ".": STOP, "?": QUESTION}
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    listed = NAMES + letters + [f"##{letter}" for letter in letters]
    return words | {word: 200 + index for index, word in enumerate(listed)}


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(vocabulary(), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", BEGIN), ("[SEP]", END)])
    tokenizer.save(str(path))


def captions(kinds: np.ndarray, source: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Ids (B, 8) of three names a picture, and where the right one stands (B)."""
    words = vocabulary()
    ids, places = [], []
    for kind in kinds:
        others = source.choice([other for other in range(len(NAMES)) if other != kind], 2, replace=False)
        place = int(source.integers(3))
        chosen = list(others)
        chosen.insert(place, kind)
        ids.append([BEGIN] + [part for name in chosen for part in (words[NAMES[name]], STOP)] + [END])
        places.append(1 + 2 * place)
    return torch.tensor(ids), torch.tensor(places)


def corners(boxes: Tensor) -> Tensor:
    return torch.cat((boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), -1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Of boxes given by centre and size, pair by pair."""
    a, b = corners(a), corners(b)
    area = lambda box: (box[..., 2:] - box[..., :2]).clamp_min(0).prod(-1)  # noqa: E731
    shared = area(torch.cat((torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])), -1))
    hull = area(torch.cat((torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])), -1))
    union = area(a) + area(b) - shared
    return shared / union - (hull - union) / hull


def one_object_loss(logits: Tensor, boxes: Tensor, box: Tensor, place: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Loss of queries (B, Q, tokens) with boxes (B, Q, 4), and the boxes of the matched queries."""
    rows = torch.arange(len(box))
    scores = logits[..., :length]
    right = scores[rows, :, place].sigmoid()
    wide = box[:, None].expand_as(boxes)
    cost = 5 * (boxes - wide).abs().sum(-1) - 2 * generalised_iou(boxes, wide) - 2 * right
    query = cost.detach().argmin(1)
    targets = torch.zeros_like(scores)
    targets[rows, query, place] = 1
    chance = scores.sigmoid()
    hardness = torch.where(targets > 0, 0.25 * (1 - chance) ** 2, 0.75 * chance**2)
    focal = (F.binary_cross_entropy_with_logits(scores, targets, reduction="none") * hardness.detach()).sum() / len(box)
    matched = boxes[rows, query]
    return 2 * focal + 5 * F.l1_loss(matched, box) * 4 + 2 * (1 - generalised_iou(matched, box)).mean(), matched


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = GroundingDinoForObjectDetection(config())

    def forward(self, images: Tensor, ids: Tensor):
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        size = (SIDE, SIDE)
        grown = F.interpolate((images + 1) / 2, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self.network(pixel_values=(grown - mean) / deviation, input_ids=ids,
                            attention_mask=torch.ones_like(ids))


def main() -> None:
    options = common.arguments(__doc__, steps=6_000, batch=16, rate=5e-4)
    shards = common.Shards(options.work / "data/train")
    model = Detector()
    run = common.Run(options.work / "detector", model, common.adamw(model, options.rate, 1e-4), steps=options.steps,
                     rate=options.rate, minutes=options.minutes)
    write_tokenizer(run.folder / "tokenizer.json")
    (run.folder / "config.json").write_text(json.dumps(config().to_dict(), indent=1, default=str))
    for step in run:
        rows = common.rows_of_step(6, step, options.batch, len(shards))
        images = common.to_images(shards.take("target", rows))
        edges = torch.from_numpy(shards.take("target_box", rows)).float() / settings.SIDE
        box = torch.cat(((edges[:, :2] + edges[:, 2:]) / 2, edges[:, 2:] - edges[:, :2]), 1)
        ids, place = captions(shards.take("attributes", rows)[:, 0], np.random.default_rng([6, step]))
        out = model(images, ids)
        length = ids.shape[1]
        final, matched = one_object_loss(out.logits, out.pred_boxes, box, place, length)
        proposals, _ = one_object_loss(out.encoder_logits, out.encoder_pred_boxes, box, place, length)
        run.descend(final + proposals, clip=0.5)
        best = out.logits[..., :length].amax(-1).argmax(1)
        taken = out.pred_boxes[torch.arange(len(box)), best].detach()
        named = out.logits[torch.arange(len(box)), best, :length].argmax(1) == place
        run.log(loss=final.item(), proposals=proposals.item(), named=float(named.float().mean()),
                iou50=float((generalised_iou(taken, box) > 0.5).float().mean()))


if __name__ == "__main__":
    main()
