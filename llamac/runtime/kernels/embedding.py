"""Embedding lookups and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def embedding_gradient(d_x: Tensor, tokens: Tensor, vocab_size: int) -> Tensor:
    """Return the table's gradient [vocab_size, D]: d_x [B, S, D] summed by token id.

    tokens: int64 [B, S].
    """
    return torch.ops.aten.embedding_dense_backward(d_x, tokens, vocab_size, -1, False)


def add_positions(x: Tensor, table: Tensor) -> Tensor:
    """Add the first S rows of the learned position table [P, D] to x [B, S, D]."""
    return x + table[: x.shape[1]]


def position_gradient(d_x: Tensor, positions: int) -> Tensor:
    """Return the gradient of the position table: d_x [B, S, D] summed over B, zero beyond S.

    positions: number P of the table's rows; the result is [P, D].
    """
    d_rows = d_x.sum(0)
    return torch.nn.functional.pad(d_rows, (0, 0, 0, positions - d_rows.shape[0]))
