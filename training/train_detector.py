"""Trains the detector: find the subject that a phrase names. GroundingDINO at a small size, from the transformers library.

Captions are lower-case names, each closed by a full stop; one of them is the subject's, at a random place among others.
Only one object is to be found in a picture, so it is matched to the one query that suits it best.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

import common
import settings

NAMES = ["mug", "robot", "fish", "teapot", "backpack", "rocket", "cactus", "car", "bird", "lamp", "boat", "cat"]
# Ids that GroundingDINO's text masks are made from: begin, end, full stop, question mark.
BEGIN, END, STOP, QUESTION = 101, 102, 1012, 1029
SIDE = 128
# Tokens of a caption in training.
LENGTH = 11
ADJECTIVES = ["a", "the", "little", "small", "big", "cute", "red", "green", "blue", "yellow", "white", "black"]


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


def published_config() -> dict:
    """The settings under the published names, and the size that pictures are brought to."""
    full = config().to_dict()
    towers = {
        "backbone_config": ["embed_dim", "depths", "num_heads", "window_size", "patch_size", "mlp_ratio", "out_indices"],
        "text_config": ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                        "max_position_embeddings"],
    }
    own = ["d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads",
           "encoder_ffn_dim", "decoder_ffn_dim", "encoder_n_points", "decoder_n_points", "num_queries",
           "num_feature_levels", "max_text_len"]
    published = {tower: {key: full[tower][key] for key in keys} for tower, keys in towers.items()}
    size = {"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
    return published | {key: full[key] for key in own} | {"size": size}


def published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights under the names of the published checkpoints, which the library knows when it saves."""
    model = Detector()
    model.load_state_dict(weights)
    with tempfile.TemporaryDirectory() as folder:
        model.network.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


def vocabulary() -> dict[str, int]:
    """Words and letters on the ids that the published vocabulary leaves us around its special ones."""
    words = {"[PAD]": 0, "[UNK]": 100, "[CLS]": BEGIN, "[SEP]": END, "[MASK]": 103, ".": STOP, "?": QUESTION}
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    listed = NAMES + [word for word in ADJECTIVES if len(word) > 1] + letters + [f"##{letter}" for letter in letters]
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
    """Ids (B, 10) of one to three phrases a picture, and where the right name stands (B); 0 where it is left out."""
    words = vocabulary()
    ids, places = [], []
    for kind in kinds:
        others = list(source.permutation([other for other in range(len(NAMES)) if other != kind]))
        chosen = [] if source.random() < 0.08 else [kind]
        chosen += others[: max(1 - len(chosen), int(source.integers(3)))]
        row, place = [BEGIN], 0
        for name in source.permutation(chosen):
            if source.random() < 0.15:
                row.append(words[source.choice(ADJECTIVES)])
            if name == kind:
                place = len(row)
            row += [words[NAMES[name]], STOP]
        ids.append((row[: LENGTH - 1] + [END] + [0] * LENGTH)[:LENGTH])
        places.append(place if place < LENGTH - 1 else 0)
    return torch.tensor(ids), torch.tensor(places)


def alone(kinds: np.ndarray) -> tuple[Tensor, Tensor]:
    """The captions that the program asks with: one name a picture."""
    words = vocabulary()
    ids = [[BEGIN, words[NAMES[kind]], STOP, END] for kind in kinds]
    return torch.tensor(ids), torch.ones(len(ids), dtype=torch.long)


def corners(boxes: Tensor) -> Tensor:
    return torch.cat((boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), -1)


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of boxes given by centre and size, pair by pair."""
    a, b = corners(a), corners(b)
    area = lambda box: (box[..., 2:] - box[..., :2]).clamp_min(0).prod(-1)  # noqa: E731
    shared = area(torch.cat((torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])), -1))
    hull = area(torch.cat((torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])), -1))
    union = area(a) + area(b) - shared
    return shared / union, shared / union - (hull - union) / hull


def one_object_loss(logits: Tensor, boxes: Tensor, box: Tensor, place: Tensor, count: int) -> Tensor:
    """Loss of queries (B, Q, tokens) with boxes (B, Q, 4), of which the `count` that suit best are to be the object's.

    A query's score is to say how well its box fits, so that the best score has the best box.
    """
    rows = torch.arange(len(box))
    # Tokens that are padding have logits of minus infinity.
    scores, boxes = logits.float().clamp_min(-30), boxes.float()
    named = (place > 0)[:, None]
    wide = box[:, None].expand_as(boxes)
    _, overlap = overlaps(boxes, wide)
    cost = 5 * (boxes - wide).abs().sum(-1) - 2 * overlap - 2 * scores[rows, :, place].sigmoid()
    queries = cost.detach().topk(count, largest=False).indices
    fit = (0.5 + 0.5 * overlap.detach().clamp(0, 1)).gather(1, queries) * named
    wanted = torch.zeros_like(scores)
    wanted[rows[:, None], queries, place[:, None]] = fit
    chance = scores.sigmoid()
    weight = torch.where(wanted > 0, wanted, 0.75 * chance.detach() ** 2)
    fitting = (F.binary_cross_entropy_with_logits(scores, wanted, reduction="none") * weight).sum() / (len(box) * count)
    matched = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
    apart = (matched - box[:, None]).abs().sum(-1)
    loss = 5 * apart + 2 * (1 - overlap.gather(1, queries))
    return fitting + (loss * named).sum() / (named.sum() * count)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = GroundingDinoForObjectDetection._from_config(config(), attn_implementation="eager")
        # A logit is the product of two normed rows without a scale: as drawn, it would begin at plus or minus eight.
        with torch.no_grad():
            self.network.model.enc_output_norm.weight.fill_(0.2)
            self.network.model.decoder.layer_norm.weight.fill_(0.2)
        # What every cell of the encoder's maps shows; thrown away. Kinds are learned from it long before boxes and
        # words alone would tell them.
        self.cells = nn.Linear(64, 1 + len(NAMES))

    def forward(self, images: Tensor, ids: Tensor):
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        size = (SIDE, SIDE)
        grown = F.interpolate((images + 1) / 2, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self.network(pixel_values=(grown - mean) / deviation, input_ids=ids, attention_mask=(ids > 0).long())


def shown(box: Tensor, kinds: np.ndarray) -> Tensor:
    """What the middle of each cell of the four maps shows: 0 for nothing, else the kind's number and one (B, cells)."""
    kinds, maps = torch.from_numpy(kinds.astype(np.int64)), []
    for side in (SIDE // 8, SIDE // 16, SIDE // 32, SIDE // 64):
        middles = (torch.arange(side) + 0.5) / side
        near = [(middles - box[:, axis, None]).abs() < box[:, axis + 2, None] / 2 for axis in (0, 1)]
        maps.append((near[1][:, :, None] & near[0][:, None, :]).flatten(1))
    return torch.cat(maps, 1) * (1 + kinds[:, None])


def best(out, place: Tensor, box: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the box with the best score: its overlap with the true one, whether its word is right, its score."""
    rows = torch.arange(len(box))
    scores = out.logits.amax(-1)
    query = scores.argmax(1)
    named = out.logits[rows, query].argmax(1) == place
    return overlaps(out.pred_boxes[rows, query], box)[0], named, scores[rows, query].sigmoid()


def batch(shards: common.Shards, rows: np.ndarray, column: str) -> tuple[Tensor, Tensor, np.ndarray]:
    """Pictures, boxes by centre and size in [0, 1], kinds."""
    images = common.to_images(shards.take(column, rows))
    edges = torch.from_numpy(shards.take(f"{column}_box", rows)).float() / settings.SIDE
    box = torch.cat(((edges[:, :2] + edges[:, 2:]) / 2, edges[:, 2:] - edges[:, :2]), 1)
    return images, box, shards.take("attributes", rows)[:, 0]


@torch.no_grad()
def look(model: Detector, run: common.Run, held: common.Shards) -> None:
    """How often the averaged network finds the subject of 200 held-out pictures, asked as the program asks."""
    with run.averaged():
        model.eval()
        images, box, kinds = batch(held, np.arange(200), "target")
        ids, place = alone(kinds)
        overlap, _, score = best(model(images, ids), place, box)
        wrong, _ = alone((kinds + 5) % len(NAMES))
        _, _, mistaken = best(model(images, wrong), place, box)
    model.train()
    print(f"held-out: IoU >= 0.5 {float((overlap >= 0.5).float().mean()):.3f}, mean {float(overlap.mean()):.3f}, "
          f"score {float(score.mean()):.2f}, of wrong names {float(mistaken.mean()):.2f}", flush=True)


def main() -> None:
    options = common.arguments(__doc__, steps=1_450, batch=24, rate=5e-4)
    shards, held = common.Shards(options.work / "data/train"), common.Shards(options.work / "data/held")
    model = Detector()
    run = common.Run(options.work / "detector", model, common.adamw(model, options.rate, 1e-4), steps=options.steps,
                     rate=options.rate, minutes=options.minutes, warmup=100, decay=0.995)
    write_tokenizer(run.folder / "tokenizer.json")
    for step in run:
        rows = common.rows_of_step(6, step, options.batch, len(shards))
        images, box, kinds = batch(shards, rows, "reference" if step % 8 == 0 else "target")
        ids, place = captions(kinds, np.random.default_rng([6, step]))
        with torch.autocast("cpu", torch.bfloat16):
            out = model(images, ids)
        # Several may be right: the program takes the best one, and with a single one boxes got worse.
        final = one_object_loss(out.logits[..., :LENGTH], out.pred_boxes, box, place, 3)
        proposals = one_object_loss(out.encoder_logits[..., :LENGTH], out.encoder_pred_boxes, box, place, 5)
        cells = model.cells(out.encoder_last_hidden_state_vision.float())
        seeing = F.cross_entropy(cells.flatten(0, 1), shown(box, kinds).flatten())
        run.descend(final + proposals + 3 * seeing, clip=1.0)
        with torch.no_grad():
            overlap, named, _ = best(out, place, box)
            asked = place > 0
            run.log(loss=final.item(), proposals=proposals.item(), seeing=seeing.item(),
                    named=float(named[asked].float().mean()),
                    iou50=float((overlap[asked] >= 0.5).float().mean()))
        if (step + 1) % 200 == 0:
            look(model, run, held)


if __name__ == "__main__":
    main()
