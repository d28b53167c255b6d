"""Log-probabilities of whole sequences (nats), from logits or fused with the output projection.

A sequence's is the sum over its labels; a label of PADDING does not count. Fused, the logits
[B, S, V] never exist whole: they are computed a few tokens at a time, and again in the backward
pass, as the gradient of a sequence is only known when all sequences of a loss are.

A *score* gives (log-probability of each target [n], softmax - one_hot [n, V]) for logits [n, V] and
targets [n] of which none is padding; the second is None unless `gradient`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .linear import input_gradient, linear, weight_gradient
from .numerics import token_chunks, upcast
from .padding import PADDING

Score = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]


def whole_score(logits: Tensor, targets: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Return the score of logits that have the whole vocabulary, [n, V]."""
    log_total = logits.logsumexp(-1, keepdim=True)
    target = targets.unsqueeze(-1)
    found = (logits.gather(-1, target) - log_total).squeeze(-1)
    if not gradient:
        return found, None
    hot = torch.arange(logits.shape[-1], device=logits.device) == target
    return found, torch.exp(logits - log_total) - hot.to(logits.dtype)


def log_probability(logits: Tensor, labels: Tensor, score: Score = whole_score) -> Tensor:
    """Return sequences' log-probabilities, float32 [B]; logits [B, S, V], labels int64 [B, S]."""
    rows, targets = upcast(logits).flatten(0, -2), labels.flatten()
    found, _ = score(rows, targets.clamp(min=0), False)
    return torch.where(targets != PADDING, found, 0).view_as(labels).sum(-1)


def log_probability_backward(
    d_rows: Tensor, logits: Tensor, labels: Tensor, score: Score = whole_score
) -> Tensor:
    """Return d_logits [B, S, V] = (one_hot(labels) - softmax(logits)) · d_rows."""
    rows, targets = upcast(logits).flatten(0, -2), labels.flatten()
    _, errors = score(rows, targets.clamp(min=0), True)
    assert errors is not None
    return (errors * _factors(d_rows, labels)).to(logits.dtype).view_as(logits)


def linear_log_probability(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, score: Score = whole_score
) -> Tensor:
    """Return log-probabilities, float32 [B]; x [B, S, D], weight [V, D], labels int64 [B, S].

    chunk: tokens whose logits exist at a time.
    """
    found = []
    for rows, targets in token_chunks(chunk, x.flatten(0, -2), labels.flatten()):
        one, _ = score(upcast(linear(rows, weight)), targets.clamp(min=0), False)
        found.append(torch.where(targets != PADDING, one, 0))
    return torch.cat(found).view_as(labels).sum(-1)


def linear_log_probability_backward(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    d_rows: Tensor,
    chunk: int,
    score: Score = whole_score,
) -> tuple[Tensor, Tensor]:
    """Return (d_x [B, S, D], d_weight [V, D]) from d_rows [B]."""
    d_x: list[Tensor] = []
    d_weight = torch.zeros_like(weight, dtype=upcast(x).dtype)
    tokens = x.flatten(0, -2), labels.flatten(), _factors(d_rows, labels)
    for rows, targets, factors in token_chunks(chunk, *tokens):
        _, errors = score(upcast(linear(rows, weight)), targets.clamp(min=0), True)
        assert errors is not None
        d_logits = (errors * factors).to(x.dtype)
        d_x.append(input_gradient(d_logits, weight))
        # Summed over chunks in float32: a bfloat16 sum would lose the later chunks' digits.
        d_weight = d_weight + upcast(weight_gradient(d_logits, rows))
    return torch.cat(d_x).view_as(x), d_weight.to(weight.dtype)


def linear_log_probability_with_gradients_of_x(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, score: Score = whole_score
) -> tuple[Tensor, Tensor]:
    """Compute `linear_log_probability` of a frozen weight and its gradient of x, logits once.

    Returns (log-probabilities [B], d_x [B, S, D] for a d_rows of ones).
    """
    found, d_x = [], []
    tokens = x.flatten(0, -2), labels.flatten()
    for rows, targets in token_chunks(chunk, *tokens):
        one, errors = score(upcast(linear(rows, weight)), targets.clamp(min=0), True)
        assert errors is not None
        counted = targets != PADDING
        found.append(torch.where(counted, one, 0))
        d_x.append(input_gradient((-errors * counted.unsqueeze(-1)).to(x.dtype), weight))
    return torch.cat(found).view_as(labels).sum(-1), torch.cat(d_x).view_as(x)


def scale_rows(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply each sequence of x [B, S, D] by its factor [B]."""
    return x * factors.to(x.dtype)[:, None, None]


def _factors(d_rows: Tensor, labels: Tensor) -> Tensor:
    """Return -d_rows for each target and 0 for padding: [B · S, 1]."""
    return torch.where(labels != PADDING, -d_rows.unsqueeze(-1), 0).flatten().unsqueeze(-1)
