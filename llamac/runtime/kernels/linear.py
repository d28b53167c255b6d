"""The three matmuls of `y = x @ weight.T + bias`, over any leading dimensions: y, d_x and d_weight.

On CPUs with AVX-512, float32 y and d_x are computed by oneDNN, which PyTorch uses in bfloat16 only:
its matmuls are 10 to 20 % faster than MKL's there (benchmarks/matmuls.py). d_weight, whose sum runs
over tokens, is faster with MKL. With AVX2 alone, MKL is faster in d_x and d_weight and equal in y,
so it computes all three. The instruction set decides, not a measurement at start-up, so that a
resumed run sums in the same order on the same machine.

With a weight as narrow as an adapter's, both compute equally fast, but a call of oneDNN takes 25 µs
more than one of MKL, a quarter of the matmul's own time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .operators import opaque

ONEDNN = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)
"""True if oneDNN computes float32 y and d_x on this CPU."""

NARROW = 64
"""Weights with fewer rows or columns than this use MKL."""


def _fake_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


# A custom operator, because Inductor uses oneDNN for constant weights only.
@opaque("onednn_linear", _fake_linear)
def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ weight.T + bias [..., O], computed by oneDNN in float32 on a CPU.

    x [..., I], weight [O, I], bias [O] or None.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return y [..., O] = x @ weight.T + bias; x [..., I], weight [O, I], bias [O] or None."""
    wide = min(weight.shape) >= NARROW
    if ONEDNN and wide and x.device.type == "cpu" and x.dtype == torch.float32:
        return onednn_linear(x, weight, bias)
    return F.linear(x, weight, bias)


def add_linear(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return y + x @ weight.T, rounded once; y [..., O], x [..., I], weight [O, I]."""
    rows = torch.addmm(y.flatten(0, -2), x.flatten(0, -2), weight.T)
    return rows.view(y.shape)


def input_gradient(d_y: Tensor, weight: Tensor) -> Tensor:
    """Return d_x [..., I] = d_y @ weight; d_y [..., O], weight [O, I]."""
    return linear(d_y, weight.T)


def weight_gradient(d_y: Tensor, x: Tensor) -> Tensor:
    """Return d_weight [O, I] = d_y.T @ x, summed over tokens; d_y [..., O], x [..., I]."""
    return d_y.flatten(0, -2).T @ x.flatten(0, -2)


def bias_gradient(d_y: Tensor) -> Tensor:
    """Return d_bias [O]: d_y [..., O] summed over tokens."""
    return d_y.flatten(0, -2).sum(0)
