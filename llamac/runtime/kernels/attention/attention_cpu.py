"""Attention on CPUs: PyTorch's flash kernel and, in compiled regions, llamac's own causal one.

In float32, PyTorch's kernel reaches about a third of the matmul peak on sequences of a few hundred
tokens. attention_cpu.cpp reaches twice that, forward and backward, on AVX-512 and AVX2. It needs a
C++ compiler, as torch.compile does, so only compiled regions use it, and only for causal attention
whose head dimension is a multiple of the vector length. bfloat16 is converted to float32 and back,
which is still faster than PyTorch's bfloat16 kernel except on CPUs with AMX.

q [B, S, H, D]; k, v [B, S, K, D], where K divides H (grouped-query attention).
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from pathlib import Path

import torch
from torch import Tensor

from .. import cpp_library
from ..operators import opaque

aten = torch.ops.aten

SOURCE = Path(__file__).with_suffix(".cpp")

DTYPES = (torch.float32,) if torch.cpu._is_amx_tile_supported() else (torch.float32, torch.bfloat16)
"""Dtypes in which llamac's kernel is used: those in which it is faster than PyTorch's."""


def attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return (out [B, S, H, D], log-sum-exp of the scores [B, H, S], float32 or wider).

    scale: factor of the scores. mask: added to the scores, [B or 1, H or 1, S, S] in q's dtype, or
    None. In a compiled region, llamac's kernel computes it if it supports this attention.
    """
    if _uses_own_kernel(q, causal, mask):
        out, logsumexp = causal_attention(q.float(), k.float(), v.float(), scale)
        return out.to(q.dtype), logsumexp
    return _attention(q, k, v, scale, causal, mask)


def attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    causal: bool,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (d_q, d_k, d_v), shaped as q, k, v, in q's dtype.

    d_out: gradient of `out`. out, logsumexp: results of `attention`; the other arguments are those
    of that call.
    """
    if _uses_own_kernel(q, causal, mask):
        read = (x.float() for x in (d_out, q, k, v, out))
        gradients = causal_attention_backward(*read, logsumexp, scale)
        d_q, d_k, d_v = (gradient.to(q.dtype) for gradient in gradients)
        return d_q, d_k, d_v
    return _attention_backward(d_out, q, k, v, out, logsumexp, scale, causal, mask)


def _uses_own_kernel(q: Tensor, causal: bool, mask: Tensor | None) -> bool:
    """Return whether llamac's kernel supports this attention and a compiled region calls it."""
    lanes = cpp_library.LANES.get(cpp_library.CAPABILITY)
    supported = lanes is not None and q.shape[-1] % lanes == 0 and q.dtype in DTYPES
    return torch.compiler.is_compiling() and causal and mask is None and supported


def _attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=mask, scale=scale
    )
    return out.transpose(1, 2), logsumexp


def _attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    causal: bool,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    d_out, q, k, v, out = (x.transpose(1, 2) for x in (d_out, q, k, v, out))
    gradients = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        d_out, q, k, v, out, logsumexp, 0.0, causal, attn_mask=mask, scale=scale
    )
    d_q, d_k, d_v = (gradient.transpose(1, 2) for gradient in gradients)
    return d_q, d_k, d_v


# -- llamac's kernel -------------------------------------------------------------------------------


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """Load attention_cpu.cpp, built if needed. Returns None, with a warning, if that fails."""
    try:
        return cpp_library.build_cpp_library(SOURCE)
    except OSError as error:
        warnings.warn(f"attention runs PyTorch's slower kernel: {error}", stacklevel=2)
        return None


def _call(function: str, tensors: tuple[Tensor, ...], sizes: tuple[int, ...], scale: float) -> None:
    """Call `function` of the library.

    tensors: in the order of its parameters; strides are passed for the 4-D ones, so not for the
    log-sum-exp.
    """
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in tensors]
    strides = [stride for x in tensors if x.dim() == 4 for stride in x.stride()[:3]]
    integers = [
        (ctypes.c_int64 * len(row))(*row) for row in ((*sizes, torch.get_num_threads()), strides)
    ]
    getattr(load_library(), function)(*pointers, *integers, ctypes.c_float(scale))


def _contiguous_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors; those whose last dimension is not contiguous are copied."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


def _fake_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    batch, length, heads, _head_dim = q.shape
    return q.new_empty(q.shape), q.new_empty((batch, heads, length))


@opaque("causal_attention", _fake_attention)
def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Compute float32 causal attention with llamac's kernel.

    Returns (out [B, S, H, D], log-sum-exp of the scores [B, H, S]). PyTorch's kernel computes them
    if the library could not be loaded.
    """
    if load_library() is None:
        return _attention(q, k, v, scale, True, None)
    q, k, v = _contiguous_rows(q, k, v)
    out, logsumexp = _fake_attention(q, k, v, scale)
    batch, length, heads, head_dim = q.shape
    sizes = (batch, length, heads, k.shape[2], head_dim)
    _call("attention_forward", (q, k, v, out, logsumexp), sizes, scale)
    return out, logsumexp


def _fake_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


@opaque("causal_attention_backward", _fake_backward)
def causal_attention_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (d_q, d_k, d_v) of `causal_attention`, float32, shaped as q, k, v.

    d_out: gradient of its `out`, [B, S, H, D]. out, logsumexp: its results.
    """
    if load_library() is None:
        return _attention_backward(d_out, q, k, v, out, logsumexp, scale, True, None)
    d_out, q, k, v, out = _contiguous_rows(d_out, q, k, v, out)
    gradients = _fake_backward(d_out, q, k, v, out, logsumexp, scale)
    batch, length, heads, head_dim = q.shape
    sizes = (batch, length, heads, k.shape[2], head_dim)
    tensors = (d_out, q, k, v, out, logsumexp.contiguous(), *gradients)
    _call("attention_backward", tensors, sizes, scale)
    return gradients
