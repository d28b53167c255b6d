"""Causal attention with cuDNN, on Hopper and later, with an explicit backward.

q [B, S, H, D]; k, v [B, S, K, D], 16-bit, on CUDA, where K divides H (grouped-query attention,
which cuDNN supports). The functions call PyTorch's operators without autograd, so that the emitted
model decides where forward and backward run. The backward sums d_q in no fixed order, so its last
bits may differ between runs. Other devices use PyTorch's kernels (attention_sdpa) instead; rank 0
says so on stderr.
"""

from __future__ import annotations

import os
import sys

import torch
from torch import Tensor

from ..operators import no_seed
from . import attention_sdpa

aten = torch.ops.aten

WHY_NOT = ""  # why cuDNN is not used; empty if it is
if not torch.cuda.is_available():
    WHY_NOT = "there is no CUDA device"
elif not torch.backends.cudnn.is_available():
    WHY_NOT = "this PyTorch has no cuDNN"
elif torch.cuda.get_device_capability() < (9, 0):
    WHY_NOT = "its fast kernels need a GPU of compute capability 9.0 or later"


def attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool = True
) -> tuple[Tensor, Tensor]:
    """Return (out [B, S, H, D], float32 log-sum-exp of the scores [B, H, S]).

    scale: factor of the scores. causal: whether later keys are masked.
    """
    batch, length, heads, _head_dim = q.shape
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out, logsumexp, *_rest = aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    return out.transpose(1, 2), logsumexp.reshape(batch, heads, length)


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
    positions = q.shape[1], k.shape[1]
    unused = no_seed(q)
    d_out, q, k, v, out = (x.transpose(1, 2) for x in (d_out, q, k, v, out))
    gradients = aten._scaled_dot_product_cudnn_attention_backward(
        d_out,
        q,
        k,
        v,
        out,
        logsumexp.unsqueeze(-1),  # as the forward operator returns it
        unused,
        unused,
        None,
        None,
        None,
        *positions,
        0.0,
        causal,
        scale=scale,
    )
    d_q, d_k, d_v = (gradient.transpose(1, 2) for gradient in gradients)
    return d_q, d_k, d_v


if WHY_NOT:
    attention, attention_backward = attention_sdpa.attention, attention_sdpa.attention_backward
    if os.environ.get("RANK", "0") == "0":
        print(f"attention: PyTorch's kernels in place of cuDNN's: {WHY_NOT}", file=sys.stderr)
