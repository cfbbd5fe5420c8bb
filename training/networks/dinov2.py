"""DINOv2's vision transformer in plain PyTorch, with the names of the published file in the transformers layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.attention import attend


@dataclass(frozen=True)
class Dinov2Config:
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    mlp_ratio: int = 4
    layer_norm_eps: float = 1e-6
    image_size: int = 56
    patch_size: int = 14


class Group(nn.Module):
    """Parts under one prefix."""

    def __init__(self, **parts: nn.Module | nn.Parameter):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Block(nn.Module):
    def __init__(self, cfg: Dinov2Config):
        super().__init__()
        width, hidden = cfg.hidden_size, cfg.hidden_size * cfg.mlp_ratio
        self.heads = cfg.num_attention_heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=cfg.layer_norm_eps) for _ in range(2))
        query, key, value = (nn.Linear(width, width) for _ in range(3))
        self.attention = Group(attention=Group(query=query, key=key, value=value),
                               output=Group(dense=nn.Linear(width, width)))
        self.layer_scale1 = Group(lambda1=nn.Parameter(torch.full((width,), 0.3)))
        self.layer_scale2 = Group(lambda1=nn.Parameter(torch.full((width,), 0.3)))
        self.mlp = Group(fc1=nn.Linear(width, hidden), fc2=nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        y, inner = self.norm1(x), self.attention.attention
        q, k, v = (f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (inner.query, inner.key, inner.value))
        y = attend(q, k, v).transpose(1, 2).flatten(-2)
        x = x + self.attention.output.dense(y) * self.layer_scale1.lambda1
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x)))) * self.layer_scale2.lambda1


class Dinov2(nn.Module):
    def __init__(self, cfg: Dinov2Config):
        super().__init__()
        self.cfg = cfg
        width, side = cfg.hidden_size, cfg.image_size // cfg.patch_size
        self.embeddings = Group(
            cls_token=nn.Parameter(torch.randn(1, 1, width) * 0.02),
            position_embeddings=nn.Parameter(torch.randn(1, 1 + side * side, width) * 0.02),
            patch_embeddings=Group(projection=nn.Conv2d(3, width, cfg.patch_size, stride=cfg.patch_size)),
        )
        self.encoder = Group(layer=nn.ModuleList(Block(cfg) for _ in range(cfg.num_hidden_layers)))
        self.layernorm = nn.LayerNorm(width, eps=cfg.layer_norm_eps)

    def prepare(self, images: Tensor) -> Tensor:
        """[-1, 1] to ImageNet's mean and deviation, then to the network's size, without antialiasing."""
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        normed = ((images + 1) / 2 - mean) / deviation
        size = (self.cfg.image_size, self.cfg.image_size)
        return F.interpolate(normed, size=size, mode="bicubic", align_corners=False)

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Class token (B, width) and patches (B, patches, width)."""
        patches = self.embeddings.patch_embeddings.projection(prepared).flatten(2).transpose(1, 2)
        x = torch.cat((self.embeddings.cls_token.expand(len(patches), -1, -1), patches), 1)
        x = x + self.embeddings.position_embeddings
        for block in self.encoder.layer:
            x = block(x)
        x = self.layernorm(x)
        return x[:, 0], x[:, 1:]
