"""Linear layers with constant weights, packed once for oneDNN's matmul on CPUs.

oneDNN reads weights in blocks and reorders a plain weight in every call, which for the few rows
of a decoding step takes as long as the matmul itself: with AVX-512, packed weights are up to twice
as fast in float32 and bfloat16, and no slower for whole prompts (benchmarks/generate.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import ONEDNN

PACKABLE = (torch.float32, torch.bfloat16)


def pack_weight(weight: Tensor) -> Tensor:
    """Return weight [O, I] packed for `packed_linear`; itself where packing is not faster."""
    if not (ONEDNN and weight.device.type == "cpu" and weight.dtype in PACKABLE):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def pack_weights(module: nn.Module, *names: str) -> None:
    """Replace parameters of `module` by packed weights in place, freeing the originals.

    names: names below `module`, such as "attention.wqkv". They are no longer parameters afterwards.
    """
    for name in names:
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        weight = pack_weight(getattr(owner, attribute))
        delattr(owner, attribute)
        setattr(owner, attribute, weight)


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias: [..., O]; x [..., I], weight [O, I] packed or plain, bias [O]."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
