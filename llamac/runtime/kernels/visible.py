"""Which keys a causal query does not see: those ahead, before its document, outside its window."""

from __future__ import annotations

import torch
from torch import Tensor


def hidden_keys(
    queries: int,
    keys: int,
    device: torch.device,
    starts: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Return which keys are hidden: bool [1 or B, queries, keys]; the last query has the last key.

    starts int64 [B, queries]: the key at which each query's document begins. window: how many keys
    a query sees, its own included: key j is seen by query i if i - window < j <= i.
    """
    key = torch.arange(keys, device=device)
    query = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    hidden = (key > query).unsqueeze(0)
    if window is not None:
        hidden = hidden | (key <= query - window)
    if starts is not None:
        hidden = hidden | (key < starts.unsqueeze(-1))
    return hidden
