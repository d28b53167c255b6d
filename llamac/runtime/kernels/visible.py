"""Masks of causal attention, limited to a query's document and window."""

from __future__ import annotations

import torch
from torch import Tensor


def seen_keys(
    at: Tensor, keys: Tensor, starts: Tensor | None = None, window: int | None = None
) -> Tensor:
    """Return the mask of keys that each query attends to: bool [B, queries, keys].

    at int64 [B, queries] and keys int64 [keys]: positions. starts int64 [B, queries]: the position
    at which each query's document begins. window: number of positions that a query sees, its own
    included: query i sees key j if i - window < j <= i.
    """
    at = at.unsqueeze(-1)
    seen = keys <= at
    if starts is not None:
        seen = seen & (keys >= starts.unsqueeze(-1))
    if window is not None:
        seen = seen & (keys > at - window)
    return seen


def hidden_keys(
    queries: int,
    keys: int,
    device: torch.device,
    starts: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Return the mask of hidden keys; the last query is at the position of the last key.

    bool [1 or B, queries, keys]; starts and window as in `seen_keys`.
    """
    at = torch.arange(keys - queries, keys, device=device).unsqueeze(0)
    return seen_keys(at, torch.arange(keys, device=device), starts, window).logical_not()
