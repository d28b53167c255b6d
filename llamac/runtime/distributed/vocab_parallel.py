"""Vocabulary-parallel embedding and cross-entropy: each rank has V' rows of the vocabulary.

Rank r has rows r·V' to (r+1)·V' - 1; if vocab_size does not divide, the last rows are padding,
which has no probability and no gradient. Logits are never gathered: ranks exchange, for each token,
a maximum, a sum of exponentials and the target's logit (Megatron-LM's
vocab_parallel_cross_entropy). All ranks of mesh axis `axis` call these functions together. Losses
are sums over targets in nats, equal on all ranks; labels are int64 [B, S].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.cross_entropy import target_mask
from ..kernels.embedding import embedding_gradient
from ..kernels.linear import input_gradient, linear, weight_gradient
from ..kernels.log_probability import Score
from ..kernels.numerics import token_chunks, upcast
from .collectives import GROUPS, all_reduce, all_reduce_max


def _own_rows(ids: Tensor, rows: int, axis: str) -> tuple[Tensor, Tensor]:
    """Return (index of each id in this rank's rows, 0 if elsewhere; mask of ids in its rows)."""
    index = ids - GROUPS[axis].rank * rows
    own = (index >= 0) & (index < rows)
    return index.where(own, 0), own


def parallel_embedding(tokens: Tensor, table: Tensor, axis: str) -> Tensor:
    """Look up tokens [B, S] in this rank's rows [V', D]: [B, S, D], zero for other ranks' tokens.

    The result is a partial sum, which the caller reduces over mesh axis `axis`.
    """
    index, own = _own_rows(tokens, table.shape[0], axis)
    return table[index] * own.unsqueeze(-1)


def parallel_embedding_gradient(d_x: Tensor, tokens: Tensor, axis: str, rows: int) -> Tensor:
    """Return the gradient of this rank's rows of the table, [rows, D].

    d_x: gradient of the reduced embeddings, [B, S, D]. tokens: int64 [B, S]. rows: number V' of
    rows on a rank.
    """
    index, own = _own_rows(tokens, rows, axis)
    return embedding_gradient(d_x * own.unsqueeze(-1), index, rows)


def _without_padding(logits: Tensor, axis: str, vocab_size: int) -> Tensor:
    """Return this rank's logits [..., V'] with minus infinity for padding rows."""
    rows, group = logits.shape[-1], GROUPS[axis]
    if rows * group.size == vocab_size:
        return logits
    padding = torch.arange(rows, device=logits.device) >= vocab_size - group.rank * rows
    return logits.masked_fill(padding, float("-inf"))


def _losses(logits: Tensor, targets: Tensor, axis: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss of each target [n], and the values that its gradient needs.

    logits [n, V'], targets [n]. The values: log of the sum of exponentials [n, 1], and the two
    results of `_own_rows`.
    """
    index, own = _own_rows(targets, logits.shape[-1], axis)
    top = all_reduce_max(logits.amax(-1), axis)
    own_target = logits.gather(-1, index.unsqueeze(-1)).squeeze(-1).where(own, 0)
    sums = torch.stack([(logits - top.unsqueeze(-1)).exp().sum(-1), own_target])
    total, target = all_reduce(sums, axis)
    log_total = total.log() + top
    return log_total - target, log_total.unsqueeze(-1), index, own


def _d_logits(logits: Tensor, log_total: Tensor, index: Tensor, own: Tensor) -> Tensor:
    """Return softmax(logits) - one_hot(targets), this rank's columns [n, V']."""
    one_hot = torch.arange(logits.shape[-1], device=logits.device) == index.unsqueeze(-1)
    return (logits - log_total).exp() - (one_hot & own.unsqueeze(-1)).to(logits.dtype)


def vocab_parallel_score(axis: str, vocab_size: int) -> Score:
    """Return the `Score` of `kernels.log_probability` for this rank's logits [n, V'].

    axis: mesh axis of the ranks that share the vocabulary. vocab_size: its size without padding.
    The function is a collective over the axis.
    """

    def score(logits: Tensor, targets: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
        logits = _without_padding(logits, axis, vocab_size)
        losses, *saved = _losses(logits, targets, axis)
        return -losses, _d_logits(logits, *saved) if gradient else None

    return score


def parallel_cross_entropy(logits: Tensor, labels: Tensor, axis: str, vocab_size: int) -> Tensor:
    """Return the loss in nats, summed over targets, a scalar equal on all ranks.

    logits: this rank's columns, [B, S, V']. labels: int64 [B, S]; PADDING has no loss. axis: mesh
    axis of the ranks that share the vocabulary. vocab_size: its size without padding.
    """
    rows = _without_padding(upcast(logits).flatten(0, -2), axis, vocab_size)
    losses = _losses(rows, labels.flatten(), axis)[0]
    return (losses * target_mask(labels.flatten(), losses.dtype).squeeze(-1)).sum()


def parallel_cross_entropy_backward(
    d_loss: Tensor, logits: Tensor, labels: Tensor, axis: str, vocab_size: int
) -> Tensor:
    """Return d_logits of `parallel_cross_entropy`, this rank's columns [B, S, V'].

    d_loss: gradient of the loss, a scalar. The other arguments are those of that call.
    """
    rows = _without_padding(upcast(logits).flatten(0, -2), axis, vocab_size)
    _, *saved = _losses(rows, labels.flatten(), axis)
    scale = d_loss * target_mask(labels.flatten(), rows.dtype)
    return (_d_logits(rows, *saved) * scale).to(logits.dtype).view_as(logits)


def parallel_linear_cross_entropy(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, axis: str, vocab_size: int
) -> Tensor:
    """Return the loss of logits x @ weight.T, summed over targets, `chunk` tokens at a time.

    x [B, S, D]; weight: this rank's rows, [V', D]. labels, axis, vocab_size: as in
    `parallel_cross_entropy`.
    """
    x, labels = x.flatten(0, -2), labels.flatten()
    total = x.new_zeros((), dtype=upcast(x).dtype)
    for rows, targets in token_chunks(chunk, x, labels):
        logits = _without_padding(upcast(linear(rows, weight)), axis, vocab_size)
        losses = _losses(logits, targets, axis)[0]
        total = total + (losses * target_mask(targets, total.dtype).squeeze(-1)).sum()
    return total


def parallel_linear_cross_entropy_with_gradients(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, axis: str, vocab_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `parallel_linear_cross_entropy` and its gradients for a d_loss of one.

    Returns (loss; d_x [B, S, D], a partial sum; d_weight of this rank's rows [V', D]), the
    gradients in the dtypes of x and weight. d_weight is summed over chunks in float32 or wider.
    """
    loss, d_x, d_weight = _chunked(x, weight, labels, chunk, axis, vocab_size, frozen=False)
    assert d_weight is not None
    return loss, d_x, d_weight


def parallel_linear_cross_entropy_with_gradients_of_x(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, axis: str, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Compute `parallel_linear_cross_entropy` and its gradient of x only, for a frozen weight.

    Returns (loss; d_x [B, S, D] for a d_loss of one, a partial sum).
    """
    return _chunked(x, weight, labels, chunk, axis, vocab_size, frozen=True)[:2]


def _chunked(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    chunk: int,
    axis: str,
    vocab_size: int,
    frozen: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    flat, labels = x.flatten(0, -2), labels.flatten()
    total = flat.new_zeros((), dtype=upcast(flat).dtype)
    d_rows: list[Tensor] = []
    d_weight = None if frozen else torch.zeros_like(weight, dtype=total.dtype)
    for rows, targets in token_chunks(chunk, flat, labels):
        counted = target_mask(targets, total.dtype)
        logits = _without_padding(upcast(linear(rows, weight)), axis, vocab_size)
        losses, *saved = _losses(logits, targets, axis)
        total = total + (losses * counted.squeeze(-1)).sum()
        d_logits = (_d_logits(logits, *saved) * counted).to(x.dtype)
        d_rows.append(input_gradient(d_logits, weight))
        if d_weight is not None:
            # Summed over chunks in float32: a bfloat16 sum would lose the later chunks' digits.
            d_weight = d_weight + upcast(weight_gradient(d_logits, rows))
    d_x = torch.cat(d_rows).view_as(x)
    return total, d_x, None if d_weight is None else d_weight.to(weight.dtype)
