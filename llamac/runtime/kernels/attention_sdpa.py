"""Causal attention by PyTorch's own flash kernels, with an explicit backward.

q [B, S, H, D]; k, v [B, S, K, D], where K divides H (grouped-query attention). On CUDA, the flash
kernel takes 16-bit values and no mask: other dtypes, and documents that share a sequence, use the
memory-efficient one. The CPU has a flash kernel of its own, for every floating dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

aten = torch.ops.aten


def _uses_flash(q: Tensor) -> bool:
    return q.dtype in (torch.bfloat16, torch.float16)


def _repeat(x: Tensor, heads: int) -> Tensor:
    """[B, S, K, D] → [B, S, heads, D]: each key head stands beside the query heads it serves."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], dim=2)


def _reduce(d_x: Tensor, heads: int) -> Tensor:
    """Return the adjoint of `_repeat`."""
    return d_x if d_x.shape[2] == heads else d_x.unflatten(2, (heads, -1)).sum(3)


def _to_heads(mask: Tensor | None, heads: int) -> Tensor | None:
    return None if mask is None else mask.expand(-1, heads, -1, -1)


def _mask(q: Tensor, starts: Tensor | None) -> Tensor | None:
    """[B, 1, S, S] of q's dtype: minus infinity ahead of a query, and before its document."""
    if starts is None:
        return None
    position = torch.arange(q.shape[1], device=q.device)
    hidden = (position > position.unsqueeze(1)) | (position < starts.unsqueeze(-1))
    mask = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device)
    return mask.masked_fill(hidden, float("-inf")).unsqueeze(1)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    causal: bool = True,
    starts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend by torch's kernels: → (out [B, S, H, D], float32 log-sum-exp of the scores [B, H, S]).

    starts int64 [B, S]: the first position that a query sees, where documents share a sequence.
    """
    mask, causal = _mask(q, starts), causal and starts is None
    if q.device.type == "cpu":
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=scale
        )
        return out.transpose(1, 2), logsumexp
    length, heads = q.shape[1], q.shape[2]
    if _uses_flash(q) and mask is None:
        return aten._flash_attention_forward(
            q, k, v, None, None, length, k.shape[1], 0.0, causal, False, scale=scale
        )[:2]
    q, k, v = (_repeat(x, heads).transpose(1, 2) for x in (q, k, v))
    out, logsumexp, _seed, _offset = aten._scaled_dot_product_efficient_attention(
        q, k, v, _to_heads(mask, heads), True, 0.0, causal, scale=scale
    )
    return out.transpose(1, 2), logsumexp


def attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    causal: bool = True,
    starts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """→ (d_q, d_k, d_v), shaped as q, k, v."""
    mask, causal = _mask(q, starts), causal and starts is None
    if q.device.type == "cpu":
        d_out, q, k, v, out = (x.transpose(1, 2) for x in (d_out, q, k, v, out))
        gradients = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            d_out, q, k, v, out, logsumexp, 0.0, causal, attn_mask=mask, scale=scale
        )
        d_q, d_k, d_v = (gradient.transpose(1, 2) for gradient in gradients)
        return d_q, d_k, d_v
    length, heads, groups = q.shape[1], q.shape[2], k.shape[2]
    unused = torch.empty(0, dtype=torch.int64, device=q.device)  # no dropout, so no seed
    if _uses_flash(q) and mask is None:
        d_q, d_k, d_v = aten._flash_attention_backward(
            d_out,
            q,
            k,
            v,
            out,
            logsumexp,
            None,
            None,
            length,
            k.shape[1],
            0.0,
            causal,
            unused,
            unused,
            scale=scale,
        )
        return d_q, d_k, d_v
    d_out, q, k, v, out = (_repeat(x, heads).transpose(1, 2) for x in (d_out, q, k, v, out))
    *gradients, _d_bias = aten._scaled_dot_product_efficient_attention_backward(
        d_out,
        q,
        k,
        v,
        _to_heads(mask, heads),
        out,
        logsumexp,
        unused,
        unused,
        0.0,
        [True, True, True, False],
        causal,
        scale=scale,
    )
    d_q, d_k, d_v = (gradient.transpose(1, 2) for gradient in gradients)
    return d_q, _reduce(d_k, groups), _reduce(d_v, groups)
