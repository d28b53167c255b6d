"""Cross-entropy in nats, summed over tokens, from logits or fused with the output projection.

The fused form never materialises all logits [B, S, V]: it computes them in chunks of tokens. As the
loss is the last value computed, its gradient is computed while a chunk's logits exist, and scaled
by d_loss in the backward pass (as in Liger-Kernel, Hsu et al. 2024): three matmuls instead of four.
If the projection is frozen, CPUs also split the vocabulary into blocks.

Labels are int64; PADDING has no loss. The loss is a sum, so that micro-batches and ranks with
different numbers of targets can be added; the optimizer divides by the step's number of targets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import input_gradient, linear, weight_gradient
from .log_probability import full_vocab_score
from .numerics import token_chunks, upcast
from .operators import opaque
from .padding import PADDING

VOCABULARY_BLOCK = 4096
"""Vocabulary rows per block on CPUs: the logits of 256 tokens are 4 MB in float32."""


def target_mask(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1 for each target and 0 for padding: labels [...] → [..., 1] in `dtype`."""
    return (labels != PADDING).to(dtype).unsqueeze(-1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss in nats, summed over targets: a scalar in float32 or wider.

    logits [B, S, V]; labels int64 [B, S], where PADDING has no loss.
    """
    rows = upcast(logits).flatten(0, -2)
    return F.cross_entropy(rows, labels.flatten(), reduction="sum", ignore_index=PADDING)


def cross_entropy_backward(d_loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return d_logits = (softmax(logits) - one_hot(labels)) · d_loss; 0 for padding labels.

    d_loss: gradient of the summed loss, a scalar. logits, d_logits [B, S, V] in one dtype; labels
    int64 [B, S].
    """
    probabilities = upcast(logits).softmax(-1)
    target = F.one_hot(labels.clamp(min=0), logits.shape[-1])
    counted = target_mask(labels, probabilities.dtype)
    return ((probabilities - target) * (d_loss * counted)).to(logits.dtype)


def linear_cross_entropy(x: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
    """Return the loss of logits x @ weight.T, summed over targets, `chunk` tokens at a time.

    x [B, S, D], weight [V, D], labels int64 [B, S]; the loss is a scalar in float32 or wider.
    """
    x, labels = x.flatten(0, -2), labels.flatten()
    total = x.new_zeros((), dtype=upcast(x).dtype)
    for rows, targets in token_chunks(chunk, x, labels):
        logits = upcast(linear(rows, weight))
        total = total + F.cross_entropy(logits, targets, reduction="sum", ignore_index=PADDING)
    return total


def linear_cross_entropy_with_gradients(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `linear_cross_entropy` and its gradients for a d_loss of one.

    Returns (loss, d_x [B, S, D], d_weight [V, D]), the gradients in the dtypes of x and weight.
    d_weight is summed over chunks in float32 or wider.
    """
    loss, d_x, d_weight = _chunked(x, weight, labels, chunk, frozen=False)
    assert d_weight is not None
    return loss, d_x, d_weight


def linear_cross_entropy_with_gradients_of_x(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Compute `linear_cross_entropy` and its gradient of x only, for a frozen weight.

    Returns (loss, d_x [B, S, D] for a d_loss of one, in the dtype of x). On a CPU, a vocabulary of
    more than VOCABULARY_BLOCK rows is computed block by block.
    """
    if x.device.type == "cpu" and len(weight) > VOCABULARY_BLOCK:
        return blockwise_cross_entropy(x, weight, labels, chunk)
    return _chunked(x, weight, labels, chunk, frozen=True)[:2]


def _fake_blockwise(x: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    return x.new_empty((), dtype=upcast(x).dtype), torch.empty_like(x)


@opaque("blockwise_cross_entropy", _fake_blockwise)
def blockwise_cross_entropy(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Compute the loss and d_x = softmax(x @ weight.T) @ weight - weight[labels] block by block.

    Arguments are those of `linear_cross_entropy`; padding labels have no loss and a d_x of 0. The
    first term is attention to the rows of `weight`, which are both keys and values. As in
    FlashAttention (Dao et al. 2022), sums over a block of the vocabulary are rescaled whenever a
    later block has a larger logit. A block's logits and its rows of `weight` therefore stay in the
    CPU's cache between the two matmuls that read them. Returns (loss, d_x [B, S, D]).
    """
    flat, targets = x.flatten(0, -2), labels.flatten()
    total = flat.new_zeros((), dtype=upcast(flat).dtype)
    d_rows: list[Tensor] = []
    for rows, target in token_chunks(chunk, flat, targets):
        answers = upcast(weight[target.clamp(min=0)])
        highest = torch.full_like(answers[:, :1], float("-inf"))
        sums, weighted = torch.zeros_like(highest), torch.zeros_like(answers)
        for block in weight.split(VOCABULARY_BLOCK):
            logits = upcast(linear(rows, block))
            previous, highest = highest, torch.maximum(highest, logits.amax(-1, keepdim=True))
            rescale = torch.exp(previous - highest)
            exponentials = logits.sub_(highest).exp_()
            sums = sums.mul_(rescale).add_(exponentials.sum(-1, keepdim=True))
            weighted.mul_(rescale).add_(input_gradient(exponentials.to(x.dtype), block))
        counted = target_mask(target, total.dtype)
        target_logits = (upcast(rows) * answers).sum(-1, keepdim=True)
        total = total + ((highest + sums.log() - target_logits) * counted).sum()
        d_rows.append(((weighted / sums - answers) * counted).to(x.dtype))
    return total, torch.cat(d_rows).view_as(x)


def _chunked(
    x: Tensor, weight: Tensor, labels: Tensor, chunk: int, frozen: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    flat, targets = x.flatten(0, -2), labels.flatten()
    total = flat.new_zeros((), dtype=upcast(flat).dtype)
    d_rows: list[Tensor] = []
    d_weight: Tensor | None = None
    for rows, target in token_chunks(chunk, flat, targets):
        counted = target_mask(target, total.dtype)
        scores, errors = full_vocab_score(upcast(linear(rows, weight)), target.clamp(min=0), True)
        assert errors is not None
        total = total - (scores * counted.squeeze(-1)).sum()
        d_logits = (errors * counted).to(x.dtype)
        d_rows.append(input_gradient(d_logits, weight))
        if frozen:
            continue
        # Summed over chunks in float32: a bfloat16 sum would lose the later chunks' digits.
        d_chunk = upcast(weight_gradient(d_logits, rows))
        d_weight = d_chunk if d_weight is None else d_weight + d_chunk
    d_x = torch.cat(d_rows).view_as(x)
    return total, d_x, None if d_weight is None else d_weight.to(weight.dtype)
