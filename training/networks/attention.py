"""Attention written out. On the CPU its gradient is several times faster than that of PyTorch's fused one."""

from __future__ import annotations

from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """q (..., L, d), k and v (..., S, d); the mask is a sum term, or True where a key may be seen."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)
    if attn_mask is not None and attn_mask.dtype.is_floating_point:
        scores = scores + attn_mask
    elif attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    return scores.softmax(-1).to(v.dtype) @ v
