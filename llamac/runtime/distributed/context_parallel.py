"""Context parallelism: each rank has two chunks of positions, chosen to balance the work.

Rank r of n has chunks r and 2n-1-r of 2n: causal attention is cheap for an early chunk and
expensive for a late one, so all ranks have equal work (Llama 3, section 3.3.2). Keys and values are
gathered before. A chunk attends to earlier keys, and causally to itself; the two results are merged
by log-sum-exp, as flash attention merges blocks. Under a window that excludes the first keys, a
chunk attends to its visible keys in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..kernels.numerics import upcast
from .collectives import GROUPS

Kernel = Callable[..., tuple[Tensor, ...]]
"""Attention function, such as `attention_sdpa.attention`, or its backward."""


def rank_order(x: Tensor, dim: int, size: int) -> Tensor:
    """Reorder positions (dimension `dim`) by rank: chunks 0, 2n-1, 1, 2n-2, … of 2n.

    size: number n of context ranks. Rank r's positions are the r-th of n equal parts of the result.
    """
    chunks = x.chunk(2 * size, dim)
    return torch.cat([chunks[index] for r in range(size) for index in (r, 2 * size - 1 - r)], dim)


def position_order(x: Tensor, dim: int, size: int) -> Tensor:
    """Reorder positions (dimension `dim`) from first to last: the inverse of `rank_order`.

    size: number of context ranks.
    """
    chunks = x.chunk(2 * size, dim)
    return torch.cat([*chunks[::2], *reversed(chunks[1::2])], dim)


def context_attention(
    kernel: Kernel,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axis: str,
    scale: float,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend causally from this rank's queries to all keys, or to the last `window` of them.

    q: this rank's positions, [B, S/n, H, D]. k, v: all positions in order, [B, S, K, D]. axis: mesh
    axis of the n context ranks. scale: factor of the scores. kernel: an attention function,
    called for each range of keys that a chunk attends to, as `kernel(q, k, v, scale, causal=…)` or
    with `window=…` instead of `causal`. Returns (out [B, S/n, H, D], log-sum-exp [B, H, S/n]).
    """
    outs, logsumexps = [], []
    for chunk, start in zip(q.chunk(2, 1), _starts(q, axis), strict=True):
        results = [
            kernel(chunk, k[:, keys], v[:, keys], scale, **options)
            for keys, options in _key_ranges(start, chunk.shape[1], window)
        ]
        out, logsumexp = results[0]
        for earlier in results[1:]:
            out, logsumexp = _merge(out, logsumexp, *earlier)
        outs.append(out)
        logsumexps.append(logsumexp)
    return torch.cat(outs, 1), torch.cat(logsumexps, 2)


def context_attention_backward(
    kernel: Kernel,
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    axis: str,
    scale: float,
    window: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return d_q and this rank's partial sums of d_k and d_v, shaped as q, k and v.

    kernel: backward of `context_attention`'s kernel. d_out: gradient of `out`. out, logsumexp: its
    results; the other arguments are those of that call. As `logsumexp` is over all keys, the
    gradients of the key ranges need no rescaling; they are summed in float32 or wider.
    """
    d_queries = []
    d_k, d_v = (torch.zeros_like(x, dtype=upcast(x).dtype) for x in (k, v))
    rows = zip(d_out.chunk(2, 1), q.chunk(2, 1), out.chunk(2, 1), strict=True)
    for (d_chunk, chunk, out_chunk), total, start in zip(
        rows, logsumexp.chunk(2, 2), _starts(q, axis), strict=True
    ):
        d_query = torch.zeros_like(chunk, dtype=d_k.dtype)
        for keys, options in _key_ranges(start, chunk.shape[1], window):
            operands = (d_chunk, chunk, k[:, keys], v[:, keys], out_chunk, total.contiguous())
            d_rows, d_keys, d_values = kernel(*operands, scale, **options)
            d_query += d_rows
            d_k[:, keys] += d_keys
            d_v[:, keys] += d_values
        d_queries.append(d_query)
    return torch.cat(d_queries, 1).to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)


def _starts(q: Tensor, axis: str) -> Iterator[int]:
    """Yield the first position of each of this rank's two chunks."""
    group = GROUPS[axis]
    for chunk in (group.rank, 2 * group.size - 1 - group.rank):
        yield chunk * (q.shape[1] // 2)


def _key_ranges(
    start: int, length: int, window: int | None
) -> Iterator[tuple[slice, dict[str, Any]]]:
    """Yield (keys that a chunk attends to, the kernel's keyword arguments) of each call."""
    end = start + length
    if window is not None and window < end:
        yield slice(max(0, start - window + 1), end), {"window": window}
        return
    yield slice(start, end), {"causal": True}
    if start:
        yield slice(0, start), {"causal": False}


def _merge(
    out: Tensor, logsumexp: Tensor, other_out: Tensor, other_logsumexp: Tensor
) -> tuple[Tensor, Tensor]:
    """Merge the attention outputs over two sets of keys; return (out, log-sum-exp)."""
    total = torch.logaddexp(logsumexp, other_logsumexp)
    weight, other_weight = (
        (x - total).exp().transpose(1, 2).unsqueeze(-1) for x in (logsumexp, other_logsumexp)
    )
    return (upcast(out) * weight + upcast(other_out) * other_weight).to(out.dtype), total
