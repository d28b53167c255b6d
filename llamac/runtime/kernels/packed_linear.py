"""Linear layers with constant weights, packed on a CPU for its matmul kernel.

A matmul for the few rows of a decoding step has to read every weight, and no more: packed weights
lie in the order in which the kernel reads them. In float32 that is llamac's own, packed_linear.cpp,
which reads as fast as memory delivers with up to 8 rows and computes as fast as oneDNN with many
(benchmarks/generate.py). In bfloat16, and in float32 without a C++ compiler, it is oneDNN's with
AVX-512, which takes plain weights too, but reorders them in every call.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cpp_library
from .linear import ONEDNN
from .operators import opaque

SOURCE = Path(__file__).with_suffix(".cpp")


def pack_weight(weight: Tensor) -> Tensor:
    """Return weight [O, I] packed for `packed_linear`, or unchanged where packing is not faster."""
    if has_panels(weight):
        width = 3 * cpp_library.LANES[cpp_library.CAPABILITY]
        return arrange_in_panels(weight.detach(), width)
    if not (ONEDNN and weight.is_cpu and weight.dtype in (torch.float32, torch.bfloat16)):
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
    """Return x @ weight.T + bias: [..., O].

    x [..., I]; weight [O, I], plain or from `pack_weight`; bias [O] or None.
    """
    if weight.dim() == 1:
        return panel_linear(x, weight, bias)
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


# -- llamac's kernel -------------------------------------------------------------------------------


@functools.cache
def load_kernel() -> ctypes.CDLL | None:
    """Load packed_linear.cpp, compiled if needed; return None if it cannot be compiled."""
    try:
        library = cpp_library.build_cpp_library(SOURCE)
    except OSError:
        return None
    library.packed_linear.argtypes = [*[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 4]
    library.packed_linear.restype = None
    return library


def has_panels(weight: Tensor) -> bool:
    """Return whether `pack_weight` arranges a weight in panels, for llamac's own kernel.

    This is so for float32 on a CPU if the kernel can be compiled.
    """
    return weight.is_cpu and weight.dtype == torch.float32 and load_kernel() is not None


def arrange_in_panels(weight: Tensor, width: int) -> Tensor:
    """Return weight [O, I] reordered in panels of `width` outputs, flat: [O · I].

    width: three times the number of float32 values in a vector register. A panel stores, for each
    input, the weights of its outputs next to each other. Outputs beyond the last full panel form a
    narrower one, and those that fill no vector come last, as plain rows.
    """
    outputs, inputs = weight.shape
    whole, left = outputs // width * width, outputs % (width // 3)
    panels = weight[:whole].reshape(-1, width, inputs).transpose(1, 2)
    last = weight[whole : outputs - left].T
    return torch.cat([panels.flatten(), last.flatten(), weight[outputs - left :].flatten()])


def _fake_panels(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0] // x.shape[-1]))


@opaque("panel_linear", _fake_panels)
def panel_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ weight.T + bias [..., O] in float32, for a weight from `arrange_in_panels`.

    x [..., I]; weight: flat, [O · I]; bias [O] or None. Runs on a CPU.
    """
    x, y = x.contiguous(), _fake_panels(x, weight, bias)
    kernel, inputs, outputs = load_kernel(), x.shape[-1], y.shape[-1]
    assert kernel is not None  # it arranged the weight
    pointers = (x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr())
    rows = x.numel() // inputs
    kernel.packed_linear(*pointers, y.data_ptr(), rows, inputs, outputs, torch.get_num_threads())
    return y
