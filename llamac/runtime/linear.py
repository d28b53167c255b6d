"""The gradients of `y = x @ weight.T + bias`, over any leading dimensions."""

from __future__ import annotations

from torch import Tensor


def weight_gradient(d_y: Tensor, x: Tensor) -> Tensor:
    """d_y [..., O], x [..., I] → [O, I]: the sum over tokens of their outer products."""
    return d_y.flatten(0, -2).T @ x.flatten(0, -2)


def bias_gradient(d_y: Tensor) -> Tensor:
    """d_y [..., O] → [O]: the sum over tokens."""
    return d_y.flatten(0, -2).sum(0)
