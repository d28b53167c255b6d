"""Log-probabilities of sequences where each rank has some rows of the vocabulary.

As `kernels.log_probability`, whose functions run with a score of their own: of each token, ranks
exchange what `vocab_parallel` says. Results [B] are the same on every rank; of d_x each rank has
its part of the sum.
"""

from __future__ import annotations

from torch import Tensor

from ..kernels import log_probability as whole
from .vocab_parallel import score_of


def parallel_log_probability(logits: Tensor, labels: Tensor, axis: str, vocab_size: int) -> Tensor:
    """Return each sequence's log-probability in nats, float32 [B].

    logits: this rank's columns [B, S, V']. labels: int64 [B, S].
    """
    return whole.log_probability(logits, labels, score_of(axis, vocab_size))


def parallel_log_probability_backward(
    d_rows: Tensor, logits: Tensor, labels: Tensor, axis: str, vocab_size: int
) -> Tensor:
    """Return d_logits, this rank's columns [B, S, V'], from d_rows [B]."""
    return whole.log_probability_backward(d_rows, logits, labels, score_of(axis, vocab_size))


def parallel_linear_log_probability(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, axis: str, vocab_size: int
) -> Tensor:
    """Return each sequence's log-probability in nats, float32 [B], in chunks of tokens.

    x: [B, S, D]. weight: this rank's rows [V', D]. labels: int64 [B, S].
    """
    return whole.linear_log_probability(x, weight, labels, chunk, score_of(axis, vocab_size))


def parallel_linear_log_probability_backward(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    d_rows: Tensor,
    chunk: int,
    axis: str,
    vocab_size: int,
) -> tuple[Tensor, Tensor]:
    """Return (this rank's part of the sum d_x [B, S, D], d_weight [V', D]) from d_rows [B]."""
    score = score_of(axis, vocab_size)
    return whole.linear_log_probability_backward(x, weight, labels, d_rows, chunk, score)


def parallel_linear_log_probability_with_gradients_of_x(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, axis: str, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Return (log-probabilities [B], this rank's part of the sum d_x for a d_rows of ones)."""
    score = score_of(axis, vocab_size)
    return whole.linear_log_probability_with_gradients_of_x(x, weight, labels, chunk, score)
