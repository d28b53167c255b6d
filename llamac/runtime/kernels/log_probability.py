"""Log-probabilities of whole sequences (nats), from logits or fused with the output projection.

A sequence's log-probability is the sum over its labels, without those that are PADDING. The fused
form never materialises all logits [B, S, V]: it computes them in chunks of tokens, and again in the
backward pass, as the gradient of a sequence depends on the other sequences of the loss.

`score` computes, for logits [n, V] and targets [n] without padding, (log-probability of each target
[n], softmax(logits) - one_hot(targets) [n, V]); the second is None unless `gradient` is set. Vocab
parallelism replaces it (distributed/vocab_parallel.py). Labels are int64 [B, S].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .linear import input_gradient, linear, weight_gradient
from .numerics import token_chunks, upcast
from .padding import PADDING

Score = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
"""Function (logits [n, V], targets [n], gradient) → (log-probabilities [n], errors [n, V] or None).
"""


def full_vocab_score(
    logits: Tensor, targets: Tensor, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return log-probabilities [n] of targets under logits [n, V], and their errors: a `Score`.

    targets: int64 [n], without padding. The errors are softmax(logits) - one_hot(targets)
    [n, V], or None unless `gradient` is set.
    """
    log_total = logits.logsumexp(-1, keepdim=True)
    target = targets.unsqueeze(-1)
    scores = (logits.gather(-1, target) - log_total).squeeze(-1)
    if not gradient:
        return scores, None
    one_hot = torch.arange(logits.shape[-1], device=logits.device) == target
    return scores, torch.exp(logits - log_total) - one_hot.to(logits.dtype)


def log_probability(logits: Tensor, labels: Tensor, score: Score = full_vocab_score) -> Tensor:
    """Return each sequence's log-probability [B] in nats, float32 or wider, from logits [B, S, V].

    labels: int64 [B, S]; PADDING is not counted. score: computes it for each token.
    """
    rows, targets = upcast(logits).flatten(0, -2), labels.flatten()
    scores, _ = score(rows, targets.clamp(min=0), False)
    return torch.where(targets != PADDING, scores, 0).view_as(labels).sum(-1)


def log_probability_backward(
    d_rows: Tensor, logits: Tensor, labels: Tensor, score: Score = full_vocab_score
) -> Tensor:
    """Return d_logits [B, S, V] = (one_hot(labels) - softmax(logits)) · d_rows; 0 for padding.

    d_rows: gradient of each sequence's log-probability, [B]. labels, score: as in
    `log_probability`.
    """
    rows, targets = upcast(logits).flatten(0, -2), labels.flatten()
    _, errors = score(rows, targets.clamp(min=0), True)
    assert errors is not None
    return (errors * _factors(d_rows, labels)).to(logits.dtype).view_as(logits)


def linear_log_probability(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, score: Score = full_vocab_score
) -> Tensor:
    """Return each sequence's log-probability [B], float32 or wider, under logits x @ weight.T.

    x [B, S, D], weight [V, D]. chunk: number of tokens whose logits exist at a time. labels, score:
    as in `log_probability`.
    """
    chunks = []
    for rows, targets in token_chunks(chunk, x.flatten(0, -2), labels.flatten()):
        scores, _ = score(upcast(linear(rows, weight)), targets.clamp(min=0), False)
        chunks.append(torch.where(targets != PADDING, scores, 0))
    return torch.cat(chunks).view_as(labels).sum(-1)


def linear_log_probability_backward(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    d_rows: Tensor,
    chunk: int,
    score: Score = full_vocab_score,
) -> tuple[Tensor, Tensor]:
    """Return (d_x [B, S, D], d_weight [V, D]), recomputing the logits of each chunk.

    d_rows: gradient of each sequence's log-probability, [B]. The other arguments are those of
    `linear_log_probability`.
    """
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
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, score: Score = full_vocab_score
) -> tuple[Tensor, Tensor]:
    """Compute `linear_log_probability` and its gradient of x from the same logits.

    For a frozen weight, whose gradient is not needed. Returns (log-probabilities [B], d_x [B, S, D]
    as if the gradient of each log-probability were 1). The backward pass scales d_x by
    `scale_rows`.
    """
    chunks, d_x = [], []
    tokens = x.flatten(0, -2), labels.flatten()
    for rows, targets in token_chunks(chunk, *tokens):
        scores, errors = score(upcast(linear(rows, weight)), targets.clamp(min=0), True)
        assert errors is not None
        counted = targets != PADDING
        chunks.append(torch.where(counted, scores, 0))
        d_x.append(input_gradient((-errors * counted.unsqueeze(-1)).to(x.dtype), weight))
    return torch.cat(chunks).view_as(labels).sum(-1), torch.cat(d_x).view_as(x)


def scale_rows(x: Tensor, factors: Tensor) -> Tensor:
    """Return x [B, S, D] with each sequence multiplied by its factor [B]."""
    return x * factors.to(x.dtype)[:, None, None]


def _factors(d_rows: Tensor, labels: Tensor) -> Tensor:
    """Return -d_rows for each target and 0 for padding: [B · S, 1]."""
    return torch.where(labels != PADDING, -d_rows.unsqueeze(-1), 0).flatten().unsqueeze(-1)
