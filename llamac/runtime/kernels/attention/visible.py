"""Masks of causal attention, limited to a query's document and window."""

from __future__ import annotations

import torch
from torch import Tensor


def seen_keys(
    queries: Tensor, keys: Tensor, starts: Tensor | None = None, window: int | None = None
) -> Tensor:
    """Return the causal attention mask, bool [B, Q, K]: true where a query attends to a key.

    queries, keys: positions, int64 [B, Q] and [K]. starts: position at which each query's document
    begins, int64 [B, Q]; earlier keys are masked. window: number of positions that a query attends
    to, its own included: query i sees key j if i - window < j <= i. None: no such limit.
    """
    queries = queries.unsqueeze(-1)
    seen = keys <= queries
    if starts is not None:
        seen = seen & (keys >= starts.unsqueeze(-1))
    if window is not None:
        seen = seen & (keys > queries - window)
    return seen


def hidden_keys(
    queries: int,
    keys: int,
    device: torch.device,
    starts: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Return the mask, true for keys hidden from a query: bool [1 or B, queries, keys].

    queries, keys: numbers of queries and keys; the last query has the position of the last key.
    starts, window: as in `seen_keys`. The first dimension is 1 without `starts`.
    """
    positions = torch.arange(keys - queries, keys, device=device).unsqueeze(0)
    return seen_keys(positions, torch.arange(keys, device=device), starts, window).logical_not()
