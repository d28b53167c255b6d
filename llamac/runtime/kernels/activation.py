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
    """Return d_x of silu(x) = x·σ(x), whose derivative is σ(x)·(1 + x·(1 - σ(x))).

    d_y: gradient of silu(x), [..., F]. Computed in float32 or wider; d_x has the dtype of x.
    """
    wide = upcast(x)
    sigmoid = wide.sigmoid()
    return (d_y * sigmoid * (1 + wide * (1 - sigmoid))).to(x.dtype)


def gelu_backward(d_y: Tensor, x: Tensor) -> Tensor:
    """Return d_x of the exact gelu(x) = x·Φ(x), whose derivative is Φ(x) + x·φ(x).

    Φ and φ are the standard normal distribution and its density. d_y: gradient of gelu(x),
    [..., F]. Computed in float32 or wider; d_x has the dtype of x.
    """
    wide = upcast(x)
    cumulative = 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
    density = torch.exp(-0.5 * wide.square()) / math.sqrt(2 * math.pi)
    return (d_y * (cumulative + wide * density)).to(x.dtype)


def relu_backward(d_y: Tensor, x: Tensor) -> Tensor:
    """Return d_x of relu(x): its gradient d_y where x > 0, and 0 elsewhere."""
    return torch.where(x > 0, d_y, 0)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) · up, the hidden values [..., F] of a SwiGLU feed-forward layer."""
    return F.silu(gate) * up


def swiglu_backward(d_hidden: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return (d_gate, d_up) of `swiglu`, from the gradient d_hidden of its result; all [..., F]."""
    return silu_backward(d_hidden * up, gate), d_hidden * F.silu(gate)


def packed_swiglu(gate_up: Tensor) -> Tensor:
    """Apply SwiGLU to gate_up [..., 2F], with the gate first; return [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return swiglu(gate, up)


def packed_swiglu_backward(d_hidden: Tensor, gate_up: Tensor) -> Tensor:
    """Return d_gate_up [..., 2F] of `packed_swiglu`, from d_hidden [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.cat(swiglu_backward(d_hidden, gate, up), dim=-1)
