"""Causal attention with xformers' kernels, which LLaMA used, with an explicit backward.

q [B, S, H, D]; k, v [B, S, K, D], 16-bit, on CUDA, where K divides H (grouped-query attention).
Each call is one opaque operator to torch.compile, because xformers chooses its kernel in Python.
Without a CUDA device or xformers, PyTorch's kernels (attention_sdpa) are used instead; rank 0 says
so on stderr.
"""

from __future__ import annotations

import os
import sys

import torch
from torch import Tensor

from ..operators import opaque
from . import attention_sdpa

WHY_NOT = ""  # why xformers is not used; empty if it is
try:
    if not torch.cuda.is_available():
        raise ImportError("there is no CUDA device")
    from xformers.ops import LowerTriangularMask  # pyright: ignore[reportMissingImports]
    from xformers.ops.fmha import (  # pyright: ignore[reportMissingImports]
        memory_efficient_attention_backward,
        memory_efficient_attention_forward_requires_grad,
    )
except (ImportError, OSError) as error:  # OSError: built for another torch or CUDA
    WHY_NOT = str(error)


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Reshape [B, S, H, D] → [B, S, K, H/K, D], xformers' form of grouped-query attention."""
    return x.unflatten(2, (groups, -1))


def _shared(x: Tensor, heads: int) -> Tensor:
    """Expand [B, S, K, D] → [B, S, K, H/K, D]: the query heads of a group share one key head."""
    return x.unsqueeze(3).expand(-1, -1, -1, heads // x.shape[2], -1)


def _fake_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool = True
) -> tuple[Tensor, Tensor]:
    batch, length, heads, _head_dim = q.shape
    return torch.empty_like(q), q.new_empty((batch, heads, length), dtype=torch.float32)


@opaque("xformers_attention", _fake_attention)
def attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool = True
) -> tuple[Tensor, Tensor]:
    """Return (out [B, S, H, D], float32 log-sum-exp of the scores [B, H, S]).

    scale: factor of the scores. causal: whether later keys are masked.
    """
    heads, groups = q.shape[2], k.shape[2]
    mask = LowerTriangularMask() if causal else None
    if heads == groups:
        return memory_efficient_attention_forward_requires_grad(q, k, v, mask, scale=scale)
    out, logsumexp = memory_efficient_attention_forward_requires_grad(
        _grouped(q, groups), _shared(k, heads), _shared(v, heads), mask, scale=scale
    )
    return out.flatten(2, 3), logsumexp.flatten(1, 2)


def _fake_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    causal: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@opaque("xformers_attention_backward", _fake_backward)
def attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    causal: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (d_q, d_k, d_v), shaped as q, k, v.

    d_out: gradient of `out`. out, logsumexp: results of `attention`; the other arguments are those
    of that call.
    """
    heads, groups = q.shape[2], k.shape[2]
    mask = LowerTriangularMask() if causal else None
    if heads == groups:
        return memory_efficient_attention_backward(
            d_out, out, logsumexp, q, k, v, mask, scale=scale
        )
    # xformers supports groups in the forward pass only, so key heads are repeated here.
    d_q, d_k, d_v = memory_efficient_attention_backward(
        d_out,
        out,
        logsumexp,
        q,
        _shared(k, heads).flatten(2, 3),
        _shared(v, heads).flatten(2, 3),
        mask,
        scale=scale,
    )
    return d_q, _grouped(d_k, groups).sum(3), _grouped(d_v, groups).sum(3)


if WHY_NOT:
    attention, attention_backward = attention_sdpa.attention, attention_sdpa.attention_backward
    if os.environ.get("RANK", "0") == "0":
        print(f"attention: PyTorch's kernels in place of xformers: {WHY_NOT}", file=sys.stderr)
