"""Padding label of positions without a target, and the count of targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PADDING = -1
"""Label of a position without a target; in inputs, any token may take its place.

Supervised data stores it after each document, and a token t that has no loss as -2 - t.
"""


def count_targets(labels: Tensor) -> Tensor:
    """Return the number of labels that are not padding, an int64 scalar on their device."""
    return (labels != PADDING).sum()


def toggle_loss(ids: Any) -> Any:
    """Map token ids t to -2 - t, the stored form of tokens without a loss, and back.

    ids: array or tensor of integers; a new one is returned.
    """
    return PADDING - 1 - ids


def input_tokens(sequences: Tensor, padding: int = 0) -> Tensor:
    """Return the token ids of stored sequences, without the marks of tokens that have no loss.

    sequences: int64 of any shape, as supervised data is stored. padding: id that replaces PADDING,
    0 or PADDING itself.
    """
    return sequences.where(sequences >= PADDING, toggle_loss(sequences)).clamp(min=padding)


def loss_labels(sequences: Tensor) -> Tensor:
    """Return the labels of stored sequences: tokens without a loss become PADDING.

    sequences: int64 of any shape, as supervised data is stored.
    """
    return sequences.clamp(min=PADDING)
