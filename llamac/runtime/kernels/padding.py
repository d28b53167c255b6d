"""Padding label of positions without a target, and the count of targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PADDING = -1
"""As a label, one without a loss; as an input, whatever token."""


def count_targets(labels: Tensor) -> Tensor:
    """Count the labels that are not padding: an int64 scalar on their device."""
    return (labels != PADDING).sum()
