"""FLUX's autoencoder in plain PyTorch, with the names that the diffusers library gives its tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.attention import attend
from networks.dinov2 import Group


@dataclass(frozen=True)
class FluxVaeConfig:
    block_out_channels: tuple[int, ...] = (16, 32, 48, 64)
    layers_per_block: int = 1
    latent_channels: int = 16
    norm_num_groups: int = 8


def conv(source: int, target: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(source, target, size, stride=stride, padding=size // 2 if stride == 1 else 0)


class ResBlock(nn.Module):
    def __init__(self, source: int, target: int, cfg: FluxVaeConfig):
        super().__init__()
        groups = cfg.norm_num_groups
        self.norm1, self.conv1 = nn.GroupNorm(groups, source, eps=1e-6), conv(source, target)
        self.norm2, self.conv2 = nn.GroupNorm(groups, target, eps=1e-6), conv(target, target)
        self.conv_shortcut = conv(source, target, 1) if source != target else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(x)))
        inner = self.conv2(F.silu(self.norm2(inner)))
        return inner + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    def __init__(self, width: int, cfg: FluxVaeConfig):
        super().__init__()
        self.group_norm = nn.GroupNorm(cfg.norm_num_groups, width, eps=1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList((nn.Linear(width, width),))

    def forward(self, x: Tensor) -> Tensor:
        y = self.group_norm(x).flatten(2).transpose(1, 2)
        y = attend(self.to_q(y), self.to_k(y), self.to_v(y))
        return x + self.to_out[0](y).transpose(1, 2).unflatten(2, x.shape[2:])


def middle(width: int, cfg: FluxVaeConfig) -> Group:
    return Group(resnets=nn.ModuleList(ResBlock(width, width, cfg) for _ in range(2)),
                 attentions=nn.ModuleList((Attention(width, cfg),)))


def through_middle(mid: Group, x: Tensor) -> Tensor:
    return mid.resnets[1](mid.attentions[0](mid.resnets[0](x)))


class Encoder(nn.Module):
    def __init__(self, cfg: FluxVaeConfig):
        super().__init__()
        widths = cfg.block_out_channels
        self.conv_in = conv(3, widths[0])
        self.down_blocks = nn.ModuleList()
        width = widths[0]
        for index, target in enumerate(widths):
            sizes = [width] + [target] * cfg.layers_per_block
            level = Group(resnets=nn.ModuleList(ResBlock(a, b, cfg) for a, b in zip(sizes, sizes[1:])))
            if index + 1 < len(widths):
                level.downsamplers = nn.ModuleList((Group(conv=conv(target, target, stride=2)),))
            self.down_blocks.append(level)
            width = target
        self.mid_block = middle(width, cfg)
        self.conv_norm_out = nn.GroupNorm(cfg.norm_num_groups, width, eps=1e-6)
        self.conv_out = conv(width, 2 * cfg.latent_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        x = self.conv_in(x)
        for level in self.down_blocks:
            for block in level.resnets:
                x = block(x)
            if hasattr(level, "downsamplers"):
                x = level.downsamplers[0].conv(F.pad(x, (0, 1, 0, 1)))
        x = self.conv_out(F.silu(self.conv_norm_out(through_middle(self.mid_block, x))))
        mean, logvar = x.float().chunk(2, 1)
        return mean, logvar.clamp(-30, 20)


class Decoder(nn.Module):
    def __init__(self, cfg: FluxVaeConfig):
        super().__init__()
        widths = list(reversed(cfg.block_out_channels))
        self.conv_in = conv(cfg.latent_channels, widths[0])
        self.mid_block = middle(widths[0], cfg)
        self.up_blocks = nn.ModuleList()
        width = widths[0]
        for index, target in enumerate(widths):
            sizes = [width] + [target] * (cfg.layers_per_block + 1)
            level = Group(resnets=nn.ModuleList(ResBlock(a, b, cfg) for a, b in zip(sizes, sizes[1:])))
            if index + 1 < len(widths):
                level.upsamplers = nn.ModuleList((Group(conv=conv(target, target)),))
            self.up_blocks.append(level)
            width = target
        self.conv_norm_out = nn.GroupNorm(cfg.norm_num_groups, width, eps=1e-6)
        self.conv_out = conv(width, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = through_middle(self.mid_block, self.conv_in(z))
        for level in self.up_blocks:
            for block in level.resnets:
                x = block(x)
            if hasattr(level, "upsamplers"):
                x = level.upsamplers[0].conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class FluxVae(nn.Module):
    def __init__(self, cfg: FluxVaeConfig):
        super().__init__()
        self.encoder, self.decoder = Encoder(cfg), Decoder(cfg)
