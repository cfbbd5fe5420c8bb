"""A group norm followed by SiLU, in training with bf16 by loops of our own (`norm.c`) where there is a C compiler.

Convolutions are fastest where a map's channels lie next to each other in memory, and there PyTorch's gradient of a group norm
takes half of a decoder's step.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SOURCE = Path(__file__).with_name("norm.c")
WIDEST = 1024


@functools.cache
def loops() -> ctypes.CDLL | None:
    """The compiled loops; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "norm.so"
        flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, str(SOURCE), "-o", str(library), "-lm"], check=True)
        return ctypes.CDLL(str(library))


def call(name: str, *arguments: Tensor | int) -> None:
    given = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_long(a) for a in arguments]
    getattr(loops(), name)(*given)


class NormedSilu(torch.autograd.Function):
    """silu(x * gain + shift), where gain and shift follow from the statistics of each picture's groups."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        batch, width, *size = x.shape
        shape = (batch, size[0] * size[1], width)
        sums = torch.zeros(2, batch, width, dtype=torch.float64)
        call("sums", x, *shape, sums[0], sums[1])
        mean, square = NormedSilu.of_groups(sums, groups, shape[1])
        scale = (square - mean.square() + eps).rsqrt()
        gain = (scale * weight).float()
        shift = (bias - mean * scale * weight).float()
        y = torch.empty_like(x)
        call("apply", x, *shape, gain, shift, y)
        ctx.save_for_backward(x, weight, mean, scale, gain, shift)
        ctx.groups, ctx.shape = groups, shape
        return y

    @staticmethod
    def of_groups(sums: Tensor, groups: int, pixels: int) -> Tensor:
        """Sums by channel to means by group, once for each channel."""
        each = sums.shape[-1] // groups
        means = sums.unflatten(-1, (groups, each)).sum(-1) / (each * pixels)
        return means.repeat_interleave(each, -1)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, mean, scale, gain, shift = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
        sums = torch.zeros(2, ctx.shape[0], ctx.shape[2], dtype=torch.float64)
        call("gradient_sums", x, grad, *ctx.shape, gain, shift, sums[0], sums[1])
        total, product = sums
        of_weight = (product - total * mean) * scale
        # Both statistics depend on x, through all pixels of the group.
        first, second = NormedSilu.of_groups(torch.stack((total, of_weight)) * weight, ctx.groups, ctx.shape[1])
        along = -second * scale.square()
        offset = -scale * first - along * mean
        result = torch.empty_like(x)
        call("gradient", x, grad, *ctx.shape, gain, shift, along.float(), offset.float(), result)
        return result, of_weight.sum(0).float(), total.sum(0).float(), None, None


def normed_silu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """silu(norm(x))"""
    is_ours = x.dtype == torch.bfloat16 and torch.is_grad_enabled() and x.shape[1] <= WIDEST
    if is_ours and loops() is not None:
        return NormedSilu.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
    return F.silu(norm(x))
