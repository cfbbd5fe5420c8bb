"""The visual tokenizer in plain PyTorch: convolutional encoder, multi-scale binary spherical quantiser, decoder.

Attribute names follow the published checkpoints (Infinity's d16 and d32 tokenizers). Images are (B, 3, H, W) in
[-1, 1]; latents are smaller by one halving for every level but the last, and d channels deep. `quantise` carries no
gradient; the trainer puts its own straight-through estimate around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.norm import normed_silu

Schedule = list[tuple[int, int]]


@dataclass(frozen=True)
class BsqConfig:
    bits: int = 32
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4, 4)
    decoder_multipliers: tuple[int, ...] | None = None  # the same for the decoder, where it differs
    res_blocks: int = 2
    norm_groups: int = 32
    norm_eps: float = 1e-6


class Conv(nn.Module):
    def __init__(self, source: int, target: int, size: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.conv = nn.Conv2d(source, target, size, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Norm(nn.Module):
    def __init__(self, channels: int, cfg: BsqConfig):
        super().__init__()
        groups = cfg.norm_groups if channels % cfg.norm_groups == 0 else 24
        self.norm = nn.GroupNorm(groups, channels, eps=cfg.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """With SiLU."""
        return normed_silu(x, self.norm)


class ResBlock(nn.Module):
    def __init__(self, source: int, target: int, cfg: BsqConfig):
        super().__init__()
        self.norm1, self.conv1 = Norm(source, cfg), Conv(source, target, 3, padding=1)
        self.norm2, self.conv2 = Norm(target, cfg), Conv(target, target, 3, padding=1)
        self.nin_shortcut = Conv(source, target, 1) if source != target else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(self.norm1(x))
        inner = self.conv2(self.norm2(inner))
        return inner + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class Halve(nn.Module):
    """Stride-2 convolution; one line of zeros is added below and to the right, none above or to the left."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Double(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Middle(nn.Module):
    def __init__(self, channels: int, cfg: BsqConfig):
        super().__init__()
        self.block_1, self.block_2 = ResBlock(channels, channels, cfg), ResBlock(channels, channels, cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x))


class Level(nn.Module):
    def __init__(self, widths: list[int], cfg: BsqConfig):
        super().__init__()
        self.block = nn.ModuleList(ResBlock(a, b, cfg) for a, b in zip(widths, widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Encoder(nn.Module):
    def __init__(self, cfg: BsqConfig):
        super().__init__()
        self.conv_in = Conv(3, cfg.channels, 3, padding=1)
        self.down = nn.ModuleList()
        width = cfg.channels
        for index, factor in enumerate(cfg.multipliers):
            target = cfg.channels * factor
            level = Level([width] + [target] * cfg.res_blocks, cfg)
            if index + 1 < len(cfg.multipliers):
                level.downsample = Halve(target)
            self.down.append(level)
            width = target
        self.mid = Middle(width, cfg)
        self.norm_out = Norm(width, cfg)
        self.conv_out = Conv(width, cfg.bits, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(self.norm_out(self.mid(x)))


class Decoder(nn.Module):
    def __init__(self, cfg: BsqConfig):
        super().__init__()
        multipliers = cfg.decoder_multipliers or cfg.multipliers
        width = cfg.channels * multipliers[-1]
        self.conv_in = Conv(cfg.bits, width, 3, padding=1)
        self.mid = Middle(width, cfg)
        levels = []
        for index in reversed(range(len(multipliers))):
            target = cfg.channels * multipliers[index]
            level = Level([width] + [target] * (cfg.res_blocks + 1), cfg)
            if index > 0:
                level.upsample = Double(target)
            levels.append(level)
            width = target
        self.up = nn.ModuleList(reversed(levels))  # index 0 is the full resolution
        self.norm_out = Norm(width, cfg)
        self.conv_out = Conv(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(self.norm_out(x))


class BsqTokenizer(nn.Module):
    def __init__(self, cfg: BsqConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)

    def load_official(self, state: dict[str, Tensor]) -> None:
        """Takes the published file's content: nested under "vae" or flat, wrapped (`x.conv.weight`) or bare names."""
        state = state.get("vae", state)
        own = self.state_dict()
        chosen = {}
        for name, value in own.items():
            stem, leaf = name.rsplit(".", 1)
            bare = f"{stem.rsplit('.', 1)[0]}.{leaf}"
            chosen[name] = state[name] if name in state else state[bare]
        self.load_state_dict(chosen)

    def encode(self, image: Tensor) -> Tensor:
        """The raw latent (B, d, H/16, W/16), before quantisation."""
        return self.encoder(image)

    def decode(self, summed: Tensor) -> Tensor:
        return self.decoder(summed).clamp(-1, 1)


def bits_to_codes(bits: Tensor) -> Tensor:
    """(B, h, w, d) of 0 and 1 to codes (B, d, h, w) of -1/sqrt(d) and +1/sqrt(d)."""
    return ((bits.float() * 2 - 1) / math.sqrt(bits.shape[-1])).permute(0, 3, 1, 2)


def shrink(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, size=tuple(size), mode="area")


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def quantise(latent: Tensor, schedule: Schedule) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Residual quantisation, coarse to fine: (bits per scale (B, h, w, d), code sum, transformer inputs for scales 1..)."""
    summed = torch.zeros_like(latent)
    all_bits, inputs = [], []
    for index, size in enumerate(schedule):
        residual = shrink(latent - summed, size)
        bits = (residual > 0).long().permute(0, 2, 3, 1)
        summed = summed + resize(bits_to_codes(bits), latent.shape[-2:])
        all_bits.append(bits)
        if index + 1 < len(schedule):
            inputs.append(resize(summed, schedule[index + 1]).flatten(2).transpose(1, 2))
    return all_bits, summed, inputs


def sum_codes(all_bits: list[Tensor], size: tuple[int, int]) -> Tensor:
    return sum(resize(bits_to_codes(bits), size) for bits in all_bits)


def to_bytes(image: Tensor) -> Tensor:
    """[-1, 1] to 0..255, cut off and not rounded, as the reference does; (B, H, W, 3), RGB."""
    return ((image + 1) / 2).permute(0, 2, 3, 1).mul(255).to(torch.uint8)
