"""Trains EchoGen's transformer on stored features: the bits of every scale from those before, the words, the subject.

Of ten examples one has no subject and one has neither subject nor words, for guidance on both axes. Bits are flipped on
the way in and the coming scales' targets made anew from what is then left over (bitwise self-correction).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import common
import settings
from features import Frozen
from networks.bsq import bits_to_codes, resize, shrink
from networks.echogen import EchoGen, Subject

FULL = [settings.ROTARY_GRID]


def initialise(model: EchoGen) -> None:
    """Gates open, gains small, residual branches in proportion to the depth."""
    torch.manual_seed(7)
    for name, value in model.named_parameters():
        if value.ndim == 2 and name.endswith(".weight"):
            nn.init.normal_(value, std=0.8 / math.sqrt(value.shape[1]))
        elif name.endswith("_uncond") or name.endswith("mat_q"):
            nn.init.normal_(value, std=0.5)
        elif "pos_start" in name:
            nn.init.normal_(value, std=0.1)
    with torch.no_grad():
        for block in model.layer_list():
            for gains in (block.ada_gss, block.control_ada_gss):
                gains[:, :, :2] = 0.7
            for linear in (block.sa.proj, block.ca.proj, block.ffn.fc2, block.sa.control_proj, block.control_ca.proj,
                           block.control_ffn.fc2):
                linear.weight.div_(math.sqrt(2 * model.cfg.depth))
        for name, value in model.named_parameters():
            if "ada_lin" in name and value.ndim == 2:
                value.mul_(0.1)
            if name.endswith(".bias") and "norm" not in name:
                value.zero_()
        model.head.weight.mul_(0.1)


def corrected(latent: Tensor, flips: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Targets (B, tokens, d) and transformer inputs (B, tokens - 1, d), after flipping up to a share of the bits."""
    summed = torch.zeros_like(latent)
    targets, inputs = [], []
    strength = torch.rand(len(latent), 1, 1, 1, generator=generator) * flips
    for index, size in enumerate(settings.SCHEDULE):
        bits = (shrink(latent - summed, size) > 0).permute(0, 2, 3, 1)
        targets.append(bits.flatten(1, 2))
        flipped = bits ^ (torch.rand(bits.shape, generator=generator) < strength)
        summed = summed + resize(bits_to_codes(flipped), latent.shape[-2:])
        if index + 1 < len(settings.SCHEDULE):
            inputs.append(resize(summed, settings.SCHEDULE[index + 1]).flatten(2).transpose(1, 2))
    return torch.cat(targets, 1).long(), torch.cat(inputs, 1)


class Examples:
    """Stored features by row, with words and subject dropped for some."""

    def __init__(self, work, folder: str):
        self.features = common.Shards(work / "features" / folder)
        self.captions = common.Shards(work / "data" / folder).captions()
        self.words = load_file(work / "features" / folder / "captions.words")

    def __len__(self) -> int:
        return len(self.features)

    def take(self, name: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.features.take(name, rows)).float()

    def text(self, rows: np.ndarray) -> list[Tensor]:
        return [self.words[self.captions[row]].float() for row in rows]

    def subject(self, rows: np.ndarray, generator: torch.Generator) -> Subject:
        mean, logvar = self.take("mean", rows), self.take("logvar", rows)
        content = mean + (logvar / 2).exp() * torch.randn(mean.shape, generator=generator)
        return Subject(self.take("cls", rows), self.take("patches", rows), content)


def dropped(model: EchoGen, text: list[Tensor], subject: Subject, without_subject: Tensor, without_text: Tensor):
    """Puts the learned stand-ins where words or subject are left out."""
    blank = model.control_features_uncond
    gone = without_subject[:, None]
    cls = torch.where(gone, blank[0], subject.cls)
    patches = torch.where(gone[..., None], blank[1:], subject.patches)
    content = torch.where(gone[..., None], model.control_features_refer_uncond, subject.content)
    text = [model.cfg_uncond[: len(row)] if out else row for row, out in zip(text, without_text.tolist())]
    return text, Subject(cls, patches, content)


def token_weights() -> Tensor:
    """Coarse scales count more a token than fine ones, less than fine ones as a whole."""
    weights = torch.cat([torch.full((h * w,), (h * w) ** -0.5) for h, w in settings.SCHEDULE])
    return weights / weights.mean()


@torch.no_grad()
def look(model: EchoGen, run: common.Run, frozen: Frozen, held: common.Shards) -> None:
    """References above what the averaged network makes of them, held-out identities, unpicked."""
    with run.averaged():
        rows = np.arange(24)
        references = common.to_images(held.take("reference", rows))
        entry = frozen.subject(references)
        captions = held.captions()[:24]
        subject = Subject(entry["cls"], entry["patches"], entry["mean"])
        with torch.autocast("cpu", torch.bfloat16):
            summed = model.sample(frozen.captions(captions), subject, settings.SCHEDULE, settings.SCHEDULE + FULL,
                                  cfg_text=2.0, cfg_image=2.0, tau=1.0, top_p=0.9,
                                  generator=torch.Generator().manual_seed(1))
    pictures = frozen.tokenizer.decoder(summed.float()).clamp(-1, 1)
    pairs = torch.stack((references.unflatten(0, (2, 12)), pictures.unflatten(0, (2, 12))), 1).flatten(0, 2)
    sheet = Image.fromarray(common.tile(common.to_bytes(pairs), 12))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(run.folder / "sheet.png")
    (run.folder / "sheet.txt").write_text("\n".join(captions) + "\n")


def main() -> None:
    options = common.arguments(__doc__, steps=22_500, batch=32, rate=1.5e-3, look=250)
    examples, held = Examples(options.work, "train"), common.Shards(options.work / "data/held")
    frozen = Frozen(options.work)
    model = EchoGen(settings.TRANSFORMER)
    initialise(model)
    run = common.Run(options.work / "transformer", model, common.adamw(model, options.rate, 0.03), steps=options.steps,
                     rate=options.rate, minutes=options.minutes, warmup=100, decay=0.998)
    weights = token_weights()
    schedule, full = settings.SCHEDULE, settings.SCHEDULE + FULL
    for step in run:
        rows = common.rows_of_step(5, step, options.batch, len(examples))
        generator = torch.Generator().manual_seed(step)
        targets, inputs = corrected(examples.take("latent", rows), 0.25, generator)
        chance = torch.rand(options.batch, generator=generator)
        text, subject = dropped(model, examples.text(rows), examples.subject(rows, generator), chance < 0.2, chance < 0.1)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(text, subject, inputs, schedule, full)
        pairs = logits.float().unflatten(-1, (-1, 2))
        losses = F.cross_entropy(pairs.flatten(0, 2), targets.flatten(), reduction="none").view(targets.shape).mean(-1)
        run.descend((losses * weights).mean(), clip=2.0)
        with torch.no_grad():
            right = (pairs.argmax(-1) == targets).float().mean((0, 2))
            starts = np.cumsum([0] + [h * w for h, w in schedule])
            by_scale = {f"right{h}": float(right[a:b].mean()) for (h, _), a, b in zip(schedule, starts, starts[1:])}
            run.log(loss=losses.mean().item(), **by_scale)
        if (step + 1) % options.look == 0:
            look(model, run, frozen, held)


if __name__ == "__main__":
    main()
