"""Feed-forward activations with their backward passes. SwiGLU: Shazeer 2020, equation 6.

gate, up, hidden and their gradients are [..., F] in one dtype.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .numerics import upcast


def silu_backward(d_y: Tensor, x: Tensor) -> Tensor:
    """silu(x) = x·σ(x), so d/dx = σ(x)·(1 + x·(1 - σ(x)))."""
    wide = upcast(x)
    sigmoid = wide.sigmoid()
    return (d_y * sigmoid * (1 + wide * (1 - sigmoid))).to(x.dtype)


def gelu_backward(d_y: Tensor, x: Tensor) -> Tensor:
    """gelu(x) = x·Φ(x), so d/dx = Φ(x) + x·φ(x), with Φ and φ the normal distribution's."""
    wide = upcast(x)
    cumulative = 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
    density = torch.exp(-0.5 * wide.square()) / math.sqrt(2 * math.pi)
    return (d_y * (cumulative + wide * density)).to(x.dtype)


def relu_backward(d_y: Tensor, x: Tensor) -> Tensor:
    """relu's slope is 1 where x > 0, and 0 elsewhere."""
    return torch.where(x > 0, d_y, 0)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) · up."""
    return F.silu(gate) * up


def swiglu_backward(d_hidden: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """d_hidden → (d_gate, d_up)."""
    return silu_backward(d_hidden * up, gate), d_hidden * F.silu(gate)


def packed_swiglu(gate_up: Tensor) -> Tensor:
    """gate_up [..., 2F], gate first → [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return swiglu(gate, up)


def packed_swiglu_backward(d_hidden: Tensor, gate_up: Tensor) -> Tensor:
    """d_hidden [..., F], gate_up [..., 2F] → d_gate_up [..., 2F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.cat(swiglu_backward(d_hidden, gate, up), dim=-1)
