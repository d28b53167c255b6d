"""Embedding lookups and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def embedding_gradient(d_x: Tensor, tokens: Tensor, vocab_size: int) -> Tensor:
    """Scatter-add d_x [B, S, D] by tokens [B, S] into the gradient [vocab_size, D]."""
    return torch.ops.aten.embedding_dense_backward(d_x, tokens, vocab_size, -1, False)


def add_positions(x: Tensor, table: Tensor) -> Tensor:
    """Add the first S rows of the learned position table [P, D] to x [B, S, D]."""
    return x + table[: x.shape[1]]


def position_gradient(d_x: Tensor, positions: int) -> Tensor:
    """Sum d_x [B, S, D] over sequences into the table's gradient [positions, D], zero beyond S."""
    summed = d_x.sum(0)
    return torch.nn.functional.pad(summed, (0, 0, 0, positions - summed.shape[0]))
