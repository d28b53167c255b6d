"""Log-probabilities of sequences with a vocabulary-parallel output projection.

The functions are those of `kernels.log_probability` with another score, which exchanges three
numbers per token (`vocab_parallel`). All ranks of mesh axis `axis` call them together. V' is the
number of vocabulary rows on a rank; vocab_size is the whole vocabulary without padding. Results
[B] are equal on all ranks; d_x is a partial sum.
"""

from __future__ import annotations

from torch import Tensor

from ..kernels import log_probability as whole
from .vocab_parallel import vocab_parallel_score


def parallel_log_probability(logits: Tensor, labels: Tensor, axis: str, vocab_size: int) -> Tensor:
    """Return each sequence's log-probability in nats, [B] in float32 or wider.

    logits: this rank's columns, [B, S, V']. labels: int64 [B, S]. axis: mesh axis of the ranks that
    share the vocabulary. vocab_size: its size without padding.
    """
    return whole.log_probability(logits, labels, vocab_parallel_score(axis, vocab_size))


def parallel_log_probability_backward(
    d_rows: Tensor, logits: Tensor, labels: Tensor, axis: str, vocab_size: int
) -> Tensor:
    """Return d_logits of `parallel_log_probability`, this rank's columns [B, S, V'].

    d_rows: gradient of each sequence's log-probability, [B]. The other arguments are those of that
    call.
    """
    return whole.log_probability_backward(
        d_rows, logits, labels, vocab_parallel_score(axis, vocab_size)
    )


def parallel_linear_log_probability(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, axis: str, vocab_size: int
) -> Tensor:
    """Return each sequence's log-probability in nats, [B], under logits x @ weight.T.

    The result is float32 or wider. x: [B, S, D]. weight: this rank's rows, [V', D]. labels: int64
    [B, S]. chunk: number of tokens whose logits exist at a time. axis: mesh axis of the ranks that
    share the vocabulary. vocab_size: its size without padding.
    """
    return whole.linear_log_probability(
        x, weight, labels, chunk, vocab_parallel_score(axis, vocab_size)
    )


def parallel_linear_log_probability_backward(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    d_rows: Tensor,
    chunk: int,
    axis: str,
    vocab_size: int,
) -> tuple[Tensor, Tensor]:
    """Return (d_x [B, S, D], a partial sum; d_weight of this rank's rows [V', D]).

    d_rows: gradient of each sequence's log-probability, [B]. The other arguments are those of
    `parallel_linear_log_probability`.
    """
    score = vocab_parallel_score(axis, vocab_size)
    return whole.linear_log_probability_backward(x, weight, labels, d_rows, chunk, score)


def parallel_linear_log_probability_with_gradients_of_x(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, axis: str, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Compute `parallel_linear_log_probability` and its gradient of x, for a frozen weight.

    Returns (log-probabilities [B], d_x [B, S, D], a partial sum, as if the gradient of each
    log-probability were 1).
    """
    score = vocab_parallel_score(axis, vocab_size)
    return whole.linear_log_probability_with_gradients_of_x(x, weight, labels, chunk, score)
