"""Padding has no loss and no gradient, and the loss is the sum of what is left."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llamac.runtime.distributed import vocab_parallel
from llamac.runtime.distributed.collectives import GROUPS
from llamac.runtime.kernels import cross_entropy
from llamac.verify.simulated_ranks import run_on_ranks
from tests.compare import assert_close

VOCAB, CHUNK = 12, 5


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """x [2, 7, 4], weight [12, 4], labels [2, 7]: the ends of both sequences are padding."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 7, 4).double(), torch.randn(VOCAB, 4).double()
    labels = torch.randint(VOCAB, (2, 7))
    labels[0, 6] = labels[1, 2:] = cross_entropy.PADDING
    return x, weight, labels


def by_autograd(x: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, d_x, d_weight) of the tokens that are no padding, taken out one by one."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    real = labels >= 0
    loss = F.cross_entropy(x[real] @ weight.T, labels[real], reduction="sum")
    d_x, d_weight = torch.autograd.grad(loss, (x, weight))
    return loss.detach(), d_x, d_weight


def test_whole_logits() -> None:
    x, weight, labels = batch()
    wanted, d_x, _ = by_autograd(x, weight, labels)
    assert_close(cross_entropy.cross_entropy(x @ weight.T, labels), wanted, "the loss")
    one = torch.ones(()).double()
    d_logits = cross_entropy.cross_entropy_backward(one, x @ weight.T, labels)
    assert_close(d_logits @ weight, d_x, "the gradient of x")


def test_fused_with_the_projection() -> None:
    x, weight, labels = batch()
    found = cross_entropy.linear_cross_entropy_with_gradients(x, weight, labels, CHUNK)
    for value, wanted in zip(found, by_autograd(x, weight, labels), strict=True):
        assert_close(value, wanted, "the loss or a gradient")
    alone = cross_entropy.linear_cross_entropy(x, weight, labels, CHUNK)
    assert_close(alone, found[0], "the loss in evaluation")


def test_a_frozen_projection_in_blocks_of_the_vocabulary(monkeypatch) -> None:
    """Rows whose largest logit is in the first, a middle or the last block, or is huge."""
    monkeypatch.setattr(cross_entropy, "VOCABULARY_BLOCK", 5)  # 5 + 5 + 2 words
    x, weight, labels = batch()
    x[0, 3] *= 1e3
    largest = (x @ weight.T).argmax(-1) // 5
    assert set(largest.flatten().tolist()) == {0, 1, 2}
    wanted, d_x, _ = by_autograd(x, weight, labels)
    found = cross_entropy.linear_cross_entropy_with_gradients_of_x(x, weight, labels, CHUNK)
    for value, expected in zip(found, (wanted, d_x), strict=True):
        assert_close(value, expected, "the loss or a gradient")
    loss, half = cross_entropy.linear_cross_entropy_with_gradients_of_x(
        x.to(torch.bfloat16), weight.to(torch.bfloat16), labels, CHUNK
    )
    assert (loss.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(half.double(), d_x, rtol=0, atol=0.05)


@pytest.mark.parametrize("fused", [False, True])
def test_a_vocabulary_shared_among_ranks(fused: bool) -> None:
    x, weight, labels = batch()
    wanted, d_x, d_weight = by_autograd(x, weight, labels)

    def rank(r: int) -> tuple[Tensor, ...]:
        mine, common = weight.chunk(3)[r], ("tp", VOCAB)
        if fused:
            both = vocab_parallel.parallel_linear_cross_entropy_with_gradients
            alone = vocab_parallel.parallel_linear_cross_entropy
            given = (x, mine, labels, CHUNK, *common)
            return alone(*given), *both(*given)
        logits, one = x @ mine.T, torch.ones(()).double()
        loss = vocab_parallel.parallel_cross_entropy(logits, labels, *common)
        d_logits = vocab_parallel.parallel_cross_entropy_backward(one, logits, labels, *common)
        rows = d_logits.flatten(0, 1)
        return loss, loss, d_logits @ mine, rows.T @ x.flatten(0, 1)

    alone, losses, d_xs, d_weights = zip(
        *run_on_ranks({"tp": 3}, GROUPS, lambda at: rank(at["tp"])), strict=True
    )
    for loss in (*alone, *losses):
        assert_close(loss, wanted, "the loss")
    assert_close(torch.stack(d_xs).sum(0), d_x, "the gradient of x")
    assert_close(torch.cat(d_weights), d_weight, "the gradient of the weight")


def test_the_loss_of_a_batch_is_that_of_its_parts_together() -> None:
    """However unequal the parts: micro-batches of 6 and of 2 targets here."""
    x, weight, labels = batch()
    whole = cross_entropy.linear_cross_entropy_with_gradients(x, weight, labels, CHUNK)
    parts = [
        cross_entropy.linear_cross_entropy_with_gradients(
            x[i : i + 1], weight, labels[i : i + 1], 3
        )
        for i in range(2)
    ]
    losses, d_x, d_weight = zip(*parts, strict=True)
    assert_close(sum(losses), whole[0], "the loss")  # type: ignore[arg-type]
    assert_close(torch.cat(d_x), whole[1], "the gradient of x")
    assert_close(sum(d_weight), whole[2], "the gradient of the weight")  # type: ignore[arg-type]


def test_nothing_but_padding_has_no_loss() -> None:
    x, weight, labels = batch()
    nothing = torch.full_like(labels, cross_entropy.PADDING)
    for value in cross_entropy.linear_cross_entropy_with_gradients(x, weight, nothing, CHUNK):
        assert not value.any()
