"""Linear layers with constant weights, prepacked on a CPU for its matmul kernel.

oneDNN reads a weight in blocks and reorders a plain one in every call, which for the few rows
of a decoding step takes as long as the matmul itself: with AVX-512, packed weights are up to twice
as fast in float32 and bfloat16, and no slower for whole prompts (benchmarks/generate.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import ONEDNN

PACKABLE = (torch.float32, torch.bfloat16)


def packed(weight: Tensor) -> Tensor:
    """Return weight [O, I] prepacked for `packed_linear`, or itself if packing is not faster."""
    if not (ONEDNN and weight.device.type == "cpu" and weight.dtype in PACKABLE):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def pack_weights(module: nn.Module, *names: str) -> None:
    """Replace the module's linear weights by packed ones, and free the originals."""
    for name in names:
        owner, _, leaf = name.rpartition(".")
        holder = module.get_submodule(owner)
        weight = packed(getattr(holder, leaf))
        delattr(holder, leaf)
        setattr(holder, leaf, weight)


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias: [..., O]; x [..., I], weight [O, I] packed or plain, bias [O]."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
