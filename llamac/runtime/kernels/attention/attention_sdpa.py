"""Causal attention with PyTorch's flash kernels, with an explicit backward.

q [B, S, H, D]; k, v [B, S, K, D], where K divides H (grouped-query attention). On CUDA, the flash
kernel takes 16-bit values and no mask: other dtypes use the memory-efficient kernel, and document
masks use both (see attention_documents). On Hopper, the flash operators run FlashAttention 3 if its
package is installed. The CPU has its own flash kernels, for every floating dtype (attention_cpu).

The flash kernel for CUDA supports windows. With the others, each block of queries attends to the
keys visible to any of them, under a mask of that size: memory and work are linear in S.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..operators import no_seed, opaque
from . import attention_cpu
from . import attention_documents as documents
from .flash3 import use_flash3
from .visible import hidden_keys

aten = torch.ops.aten
use_flash3()

BLOCK = 256
"""Queries per block under a window: fewer make small matmuls, more compute scores that are masked.
"""

KEY_ALIGNMENT = 16
"""A block's first key is a multiple of this, because CUDA's kernel needs aligned rows of the mask.
"""


def _uses_flash(q: Tensor) -> bool:
    return q.device.type != "cpu" and q.dtype in (torch.bfloat16, torch.float16)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _repeat(x: Tensor, heads: int) -> Tensor:
    """Repeat each key head for its query heads: [B, S, K, D] → [B, S, heads, D]."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], dim=2)


def _reduce(d_x: Tensor, heads: int) -> Tensor:
    """Sum the copies of each key head: [B, S, H, D] → [B, S, heads, D], adjoint of `_repeat`."""
    return d_x if d_x.shape[2] == heads else d_x.unflatten(2, (heads, -1)).sum(3)


def _to_heads(mask: Tensor | None, batch: int, heads: int) -> Tensor | None:
    return None if mask is None else mask.expand(batch, heads, -1, -1)


def _mask(q: Tensor, k: Tensor, starts: Tensor | None, window: int | None = None) -> Tensor | None:
    """Return the mask [B or 1, 1, S, S] in q's dtype: minus infinity for hidden keys."""
    if starts is None and window is None:
        return None
    hidden = hidden_keys(q.shape[1], k.shape[1], q.device, starts, window)
    mask = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device)
    return mask.masked_fill(hidden, float("-inf")).unsqueeze(1)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    causal: bool = True,
    starts: Tensor | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (out [B, S, H, D], log-sum-exp of the scores [B, H, S], float32 or wider).

    starts: index of the first key of each query's document, int64 [B, S]; None for no document
    mask. window: number of keys that a query attends to, its own included; None for all. There may
    then be more keys than queries, where the last key has the position of the last query. starts
    and window require `causal`. scale: factor of the scores.
    """
    window = _effective_window(window, q, k)
    if _uses_flash(q) and starts is None:
        return aten._flash_attention_forward(
            q,
            k,
            v,
            None,
            None,
            q.shape[1],
            k.shape[1],
            0.0,
            causal,
            False,
            scale=scale,
            **_flash_window(window),
        )[:2]
    if window is not None:
        return blocked_attention(q, k, v, scale, window, starts)
    if starts is not None and causal and _uses_flash(q):
        return document_attention(q, k, v, scale, starts)
    return _attention(q, k, v, scale, causal and starts is None, _mask(q, k, starts))


def _effective_window(window: int | None, q: Tensor, k: Tensor) -> int | None:
    """Return the window, or None if it masks no key."""
    return None if window is not None and window >= q.shape[1] == k.shape[1] else window


def _flash_window(window: int | None) -> dict[str, int]:
    return {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}


def _attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run the CPU's flash kernel, or CUDA's memory-efficient one."""
    if q.device.type == "cpu":
        return attention_cpu.attention(q, k, v, scale, causal, mask)
    batch, _length, heads, _head_dim = q.shape
    q, k, v = (_repeat(x, heads).transpose(1, 2) for x in (q, k, v))
    out, logsumexp, _seed, _offset = aten._scaled_dot_product_efficient_attention(
        q, k, v, _to_heads(mask, batch, heads), True, 0.0, causal, scale=scale
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
    window: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (d_q, d_k, d_v), shaped as q, k, v.

    d_out: gradient of `out`. out, logsumexp: results of `attention`; the other arguments are those
    of that call.
    """
    window = _effective_window(window, q, k)
    if _uses_flash(q) and starts is None:
        unused = no_seed(q)
        d_q, d_k, d_v = aten._flash_attention_backward(
            d_out,
            q,
            k,
            v,
            out,
            logsumexp,
            None,
            None,
            q.shape[1],
            k.shape[1],
            0.0,
            causal,
            unused,
            unused,
            scale=scale,
            **_flash_window(window),
        )
        return d_q, d_k, d_v
    if window is not None:
        return blocked_attention_backward(d_out, q, k, v, out, logsumexp, scale, window, starts)
    if starts is not None and causal and _uses_flash(q):
        return document_attention_backward(d_out, q, k, v, out, logsumexp, scale, starts)
    whole = causal and starts is None
    return _attention_backward(d_out, q, k, v, out, logsumexp, scale, whole, _mask(q, k, starts))


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
    if q.device.type == "cpu":
        return attention_cpu.attention_backward(d_out, q, k, v, out, logsumexp, scale, causal, mask)
    batch, _length, heads, _head_dim = q.shape
    groups = k.shape[2]
    unused = no_seed(q)
    d_out, q, k, v, out = (_repeat(x, heads).transpose(1, 2) for x in (d_out, q, k, v, out))
    *gradients, _d_bias = aten._scaled_dot_product_efficient_attention_backward(
        d_out,
        q,
        k,
        v,
        _to_heads(mask, batch, heads),
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


# -- a window, a block of queries at a time --------------------------------------------------------


def _blocks(
    q: Tensor, k: Tensor, window: int, starts: Tensor | None
) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """Yield (range of queries, range of keys visible to any of them, mask) of each block."""
    offset = k.shape[1] - q.shape[1]
    for begin in range(0, q.shape[1], BLOCK):
        rows = slice(begin, min(begin + BLOCK, q.shape[1]))
        first = max(0, begin + offset - window + 1) // KEY_ALIGNMENT * KEY_ALIGNMENT
        keys = slice(first, rows.stop + offset)
        block_starts = None if starts is None else starts[:, rows] - first
        yield rows, keys, _mask(q[:, rows], k[:, keys], block_starts, window)


def _fake_blocked(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: int, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, length, heads, _head_dim = q.shape
    return torch.empty_like(q), q.new_empty((batch, heads, length), dtype=_wide(q))


@opaque("blocked_attention", _fake_blocked)
def blocked_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: int, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attend causally to the last `window` keys, one block of BLOCK queries at a time.

    Arguments and results (out, log-sum-exp) are those of `attention`.
    """
    out, logsumexp = _fake_blocked(q, k, v, scale, window, starts)
    for rows, keys, mask in _blocks(q, k, window, starts):
        block = _attention(q[:, rows], k[:, keys], v[:, keys], scale, False, mask)
        out[:, rows], logsumexp[:, :, rows] = block
    return out, logsumexp


def _fake_blocked_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    window: int,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@opaque("blocked_attention_backward", _fake_blocked_backward)
def blocked_attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    window: int,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (d_q, d_k, d_v) of `blocked_attention`, shaped as q, k, v.

    d_out: gradient of its `out`. out, logsumexp: its results. d_k and d_v are summed over blocks in
    float32 or wider.
    """
    d_q = torch.empty_like(q)
    d_k, d_v = (torch.zeros_like(x, dtype=_wide(x)) for x in (k, v))
    for rows, keys, mask in _blocks(q, k, window, starts):
        block = (d_out[:, rows], q[:, rows], k[:, keys], v[:, keys], out[:, rows])
        total = logsumexp[:, :, rows].contiguous()
        d_rows, d_keys, d_values = _attention_backward(*block, total, scale, False, mask)
        d_q[:, rows] = d_rows
        d_k[:, keys] += d_keys
        d_v[:, keys] += d_values
    return d_q, d_k.to(k.dtype), d_v.to(v.dtype)


# -- documents that share a sequence, on CUDA ------------------------------------------------------


def _fake_documents(
    q: Tensor, k: Tensor, v: Tensor, scale: float, starts: Tensor
) -> tuple[Tensor, Tensor]:
    return _fake_blocked(q, k, v, scale, 0, starts)


@opaque("document_attention", _fake_documents)
def document_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, starts: Tensor
) -> tuple[Tensor, Tensor]:
    """Attend causally within documents; return (out, log-sum-exp) as `attention` does.

    starts: position at which each token's document begins, int64 [B, S].
    """
    long, bounds, mask = documents.document_layout(starts, q.dtype)
    out, total = documents.flash_forward(q, k, v, bounds, scale)
    keys, values = documents.with_previous_block(k), documents.with_previous_block(v)
    short = _attention(documents.to_blocks(q), keys, values, scale, False, mask)
    shape = q.shape[:2]
    short_out = documents.from_blocks(short[0], *shape)
    short_total = documents.from_blocks(short[1].transpose(1, 2), *shape).transpose(1, 2)
    return (
        torch.where(long[:, :, None, None], out, short_out),
        torch.where(long.unsqueeze(1), total, short_total),
    )


def _fake_documents_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@opaque("document_attention_backward", _fake_documents_backward)
def document_attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (d_q, d_k, d_v) of `document_attention`, shaped as q, k, v.

    d_out: gradient of its `out`. out, logsumexp: its results. The gradients are the sum of those of
    long and of short documents.
    """
    long, bounds, mask = documents.document_layout(starts, q.dtype)
    heads = long[:, :, None, None]
    # An infinite log-sum-exp makes every attention weight of a row zero.
    total = torch.where(long.unsqueeze(1), logsumexp, float("inf"))
    through_long = documents.flash_backward(
        torch.where(heads, d_out, 0), q, k, v, out, total, bounds, scale
    )
    blocks = documents.to_blocks
    short_total = blocks(logsumexp.transpose(1, 2)).transpose(1, 2).contiguous()
    d_queries, *d_pairs = _attention_backward(
        blocks(torch.where(heads, 0, d_out)),
        blocks(q),
        documents.with_previous_block(k),
        documents.with_previous_block(v),
        blocks(out),
        short_total,
        scale,
        False,
        mask,
    )
    shape = q.shape[:2]
    d_q = through_long[0] + documents.from_blocks(d_queries, *shape)
    d_k, d_v = (
        whole + documents.add_previous_block(pair, *shape)
        for whole, pair in zip(through_long[1:], d_pairs, strict=True)
    )
    return d_q, d_k, d_v
