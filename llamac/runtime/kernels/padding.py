"""Padding label of positions without a target, and the count of targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PADDING = -1
"""Label without a loss; as an input, any token.

In supervised data it follows each document, and a token t without a loss is stored as -2 - t.
"""


def count_targets(labels: Tensor) -> Tensor:
    """Count the labels that are not padding: an int64 scalar on their device."""
    return (labels != PADDING).sum()


def without_loss(ids: Any) -> Any:
    """Map ids t (array or tensor) to -2 - t, the stored form of tokens without a loss, and back."""
    return PADDING - 1 - ids


def input_tokens(sequences: Tensor, padding: int = 0) -> Tensor:
    """Return the ids of stored tokens; `padding` is the one that padding becomes."""
    return sequences.where(sequences >= PADDING, without_loss(sequences)).clamp(min=padding)


def loss_labels(sequences: Tensor) -> Tensor:
    """Return stored tokens as labels: those without a loss become PADDING."""
    return sequences.clamp(min=PADDING)
