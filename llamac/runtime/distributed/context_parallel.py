"""Context parallelism: each rank has two chunks of positions, chosen to balance the work.

Rank r of n has chunks r and 2n-1-r of 2n: causal attention is cheap for an early chunk and
expensive for a late one, so all ranks have equal work (Llama 3, section 3.3.2). Keys and values are
gathered. A chunk attends to earlier keys, and causally to itself; the results are merged by
log-sum-exp, as flash attention merges blocks. Under a window that excludes the first keys, a chunk
attends to its visible keys in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..kernels.numerics import upcast
from .collectives import GROUPS

Kernel = Callable[..., tuple[Tensor, ...]]


def rank_order(x: Tensor, dim: int, size: int) -> Tensor:
    """Reorder positions rank by rank: chunks 0, 2n-1, 1, 2n-2 and so on."""
    chunks = x.chunk(2 * size, dim)
    return torch.cat([chunks[index] for r in range(size) for index in (r, 2 * size - 1 - r)], dim)


def position_order(x: Tensor, dim: int, size: int) -> Tensor:
    """Return positions in order, from the ranks' order: the inverse of `rank_order`."""
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

    kernel: called for each run of keys that a chunk sees, as `kernel(q, k, v, scale, causal=…)`,
    or with `window=…` in place of `causal`.
    q [B, S/n, H, D]; k, v [B, S, K, D] in order of position → (out as q, log-sum-exp [B, H, S/n]).
    """
    outs, logsumexps = [], []
    for chunk, start in zip(q.chunk(2, 1), _starts(q, axis), strict=True):
        parts = [
            kernel(chunk, k[:, keys], v[:, keys], scale, **rest)
            for keys, rest in _parts(start, chunk.shape[1], window)
        ]
        out, logsumexp = parts[0]
        for before in parts[1:]:
            out, logsumexp = _merged(out, logsumexp, *before)
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
    """Return d_q, and this rank's partial sums d_k and d_v, shaped as q, k and v.

    With the log-sum-exp over all keys, each part has the attention weights of the whole.
    """
    d_queries = []
    d_k, d_v = (torch.zeros_like(x, dtype=upcast(x).dtype) for x in (k, v))
    rows = zip(d_out.chunk(2, 1), q.chunk(2, 1), out.chunk(2, 1), strict=True)
    for (d_chunk, chunk, made), total, start in zip(
        rows, logsumexp.chunk(2, 2), _starts(q, axis), strict=True
    ):
        d_query = torch.zeros_like(chunk, dtype=d_k.dtype)
        for keys, rest in _parts(start, chunk.shape[1], window):
            parts = (d_chunk, chunk, k[:, keys], v[:, keys], made, total.contiguous())
            d_own, d_keys, d_values = kernel(*parts, scale, **rest)
            d_query += d_own
            d_k[:, keys] += d_keys
            d_v[:, keys] += d_values
        d_queries.append(d_query)
    return torch.cat(d_queries, 1).to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)


def _starts(q: Tensor, axis: str) -> Iterator[int]:
    """Yield the first position of each of this rank's two chunks."""
    group = GROUPS[axis]
    for chunk in (group.rank, 2 * group.size - 1 - group.rank):
        yield chunk * (q.shape[1] // 2)


def _parts(start: int, length: int, window: int | None) -> Iterator[tuple[slice, dict[str, Any]]]:
    """Yield the keys that a chunk attends to in each call, and the kernel's keywords for it."""
    end = start + length
    if window is not None and window < end:
        yield slice(max(0, start - window + 1), end), {"window": window}
        return
    yield slice(start, end), {"causal": True}
    if start:
        yield slice(0, start), {"causal": False}


def _merged(out: Tensor, logsumexp: Tensor, more: Tensor, its: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the attention outputs over two sets of keys; return (out, log-sum-exp)."""
    total = torch.logaddexp(logsumexp, its)
    share, rest = ((x - total).exp().transpose(1, 2).unsqueeze(-1) for x in (logsumexp, its))
    return (upcast(out) * share + upcast(more) * rest).to(out.dtype), total
