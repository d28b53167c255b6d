"""Key-value cache for generation, and attention to it.

A cache of keys or of values is [B, K, C, D]: sequences, key heads, positions, head dimension. It
is updated in place. Positions not yet written are masked.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention.visible import seen_keys
from .numerics import upcast


def fill_cache(new: Tensor, cache: Tensor) -> Tensor:
    """Write new [B, S, K, D] to the first S positions of cache [B, K, C, D]; return new."""
    cache[:, :, : new.shape[1]] = new.transpose(1, 2)
    return new


def append_cache(new: Tensor, cache: Tensor, positions: Tensor) -> Tensor:
    """Write new [B, S, K, D] to cache [B, K, C, D] in place; return the cache.

    positions: where each token is written, int64 [B, S], different ones within a sequence.
    """
    rows = torch.arange(new.shape[0], device=new.device).unsqueeze(1)
    cache[rows, :, positions] = new
    return cache


def cache_mask(
    positions: Tensor, slots: Tensor, starts: Tensor | None = None, window: int | None = None
) -> Tensor:
    """Return the causal mask, true where a query attends to a cached position: bool [B, S, C].

    positions: position of each query, int64 [B, S]. slots: positions of the cache, int64 [C], 0 to
    C - 1. starts: position at which each query's document begins, int64 [B, S]; None attends to
    earlier documents too. window: number of positions that a query attends to, its own included;
    None for all.
    """
    return seen_keys(positions, slots, starts, window)


def cached_attention(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Attend from q [B, S, H, D] to the caches [B, K, C, D]; return [B, S, H, D].

    seen: mask from `cache_mask`, bool [B, S, F]; only the first F ≤ C positions of the caches are
    read. scale: factor of the scores. The H/K query heads of a key head attend together, so each
    cached value is read once.
    """
    groups, filled = keys.shape[1], seen.shape[-1]
    keys, values = keys[:, :, :filled], values[:, :, :filled]
    grouped = q.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # B K (H/K S) D
    mask = seen[:, None, None].expand(-1, 1, q.shape[2] // groups, -1, -1).flatten(2, 3)
    if torch.compiler.is_compiling() and q.device.type == "cpu" and q.shape[1] == 1:
        # Inductor makes three loops of this, which for one query are faster than flash attention.
        scores = (upcast(grouped).unsqueeze(3) * keys.unsqueeze(2)).sum(-1) * scale
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        out = (weights.unsqueeze(-1) * values.unsqueeze(2)).sum(3).to(q.dtype)
    else:
        out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return out.unflatten(2, (-1, q.shape[1])).permute(0, 3, 1, 2, 4).flatten(2, 3)
