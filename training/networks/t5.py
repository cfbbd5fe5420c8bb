"""The encoder half of T5 in plain PyTorch, with the published names."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.attention import attend


@dataclass(frozen=True)
class T5Config:
    vocab_size: int = 512
    d_model: int = 128
    d_kv: int = 32
    d_ff: int = 256
    num_layers: int = 3
    num_heads: int = 4
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    eos_token_id: int = 1


class Norm(nn.Module):
    def __init__(self, cfg: T5Config):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(cfg.d_model)), cfg.layer_norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def buckets(count: int, cfg: T5Config) -> Tensor:
    """Bucket of every (query, key) pair: exact near by, logarithmic further off, a half for each direction."""
    offset = torch.arange(count)[None, :] - torch.arange(count)[:, None]
    half = cfg.relative_attention_num_buckets // 2
    exact = half // 2
    distance = offset.abs()
    scale = math.log(cfg.relative_attention_max_distance / exact)
    far = exact + (distance.clamp_min(1) / exact).log().div(scale).mul(half - exact).long()
    return (offset > 0) * half + torch.where(distance < exact, distance, far.clamp_max(half - 1))


class SelfAttention(nn.Module):
    def __init__(self, cfg: T5Config, has_bias: bool):
        super().__init__()
        inner = cfg.num_heads * cfg.d_kv
        self.heads = cfg.num_heads
        self.q, self.k, self.v = (nn.Linear(cfg.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, cfg.d_model, bias=False)
        nn.init.normal_(self.q.weight, std=(cfg.d_model * cfg.d_kv) ** -0.5)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(cfg.relative_attention_num_buckets, cfg.num_heads)
            nn.init.normal_(self.relative_attention_bias.weight, std=0.1)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        out = attend(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        return self.o(out.transpose(1, 2).flatten(-2))


class AttentionLayer(nn.Module):
    def __init__(self, cfg: T5Config, has_bias: bool):
        super().__init__()
        self.SelfAttention, self.layer_norm = SelfAttention(cfg, has_bias), Norm(cfg)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class DenseReluDense(nn.Module):
    def __init__(self, cfg: T5Config):
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(cfg.d_model, cfg.d_ff, bias=False) for _ in range(2))
        self.wo = nn.Linear(cfg.d_ff, cfg.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class FeedForward(nn.Module):
    def __init__(self, cfg: T5Config):
        super().__init__()
        self.DenseReluDense, self.layer_norm = DenseReluDense(cfg), Norm(cfg)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nn.Module):
    def __init__(self, cfg: T5Config, has_bias: bool):
        super().__init__()
        self.layer = nn.ModuleList((AttentionLayer(cfg, has_bias), FeedForward(cfg)))


class Stack(nn.Module):
    def __init__(self, cfg: T5Config):
        super().__init__()
        self.block = nn.ModuleList(Block(cfg, index == 0) for index in range(cfg.num_layers))
        self.final_layer_norm = Norm(cfg)


class T5Encoder(nn.Module):
    def __init__(self, cfg: T5Config):
        super().__init__()
        self.cfg = cfg
        self.shared = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.encoder = Stack(cfg)

    def forward(self, ids: Tensor, visible: Tensor) -> Tensor:
        """ids (B, T), visible (B, T): whether a token is real; (B, T, d_model)."""
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = table(buckets(ids.shape[1], self.cfg)).permute(2, 0, 1)[None]
        bias = bias.masked_fill(~visible[:, None, None, :], float("-inf"))
        x = self.shared(ids)
        for block in self.encoder.block:
            x = block.layer[1](block.layer[0](x, bias))
        return self.encoder.final_layer_norm(x)
