"""Embedding lookups and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def embedding_gradient(d_x: Tensor, tokens: Tensor, vocab_size: int) -> Tensor:
    """d_x [B, S, D], tokens int64 [B, S] → [vocab_size, D]: each token's row gets its gradient."""
    return torch.ops.aten.embedding_dense_backward(d_x, tokens, vocab_size, -1, False)


def add_positions(x: Tensor, table: Tensor) -> Tensor:
    """x [B, S, D] plus the first S rows of the learned position table [P, D]."""
    return x + table[: x.shape[1]]


def position_gradient(d_x: Tensor, positions: int) -> Tensor:
    """d_x [B, S, D] → [positions, D]: summed over sequences, zero past S."""
    summed = d_x.sum(0)
    return torch.nn.functional.pad(summed, (0, 0, 0, positions - summed.shape[0]))
