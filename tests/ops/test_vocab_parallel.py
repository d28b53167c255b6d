"""A vocabulary shared among ranks gives what the whole one gives, padding and all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]

import llamac.ops  # noqa: F401
from llamac.ir.execute import run_graph
from llamac.ir.graph import Builder, output_of, placeholders
from llamac.ir.op import OPS
from llamac.ir.program import Region
from llamac.ir.types import TensorType, TypeRuleError
from llamac.passes.differentiate import augment, differentiate
from llamac.runtime.distributed import collectives
from llamac.runtime.distributed import parallel_log_probability as parallel
from llamac.runtime.distributed.collectives import GROUPS
from llamac.runtime.distributed.process_group import process_group
from llamac.runtime.distributed.vocab_parallel import (
    parallel_cross_entropy,
    parallel_cross_entropy_backward,
    parallel_embedding,
    parallel_embedding_gradient,
    parallel_linear_cross_entropy,
    parallel_linear_cross_entropy_with_gradients,
    parallel_linear_cross_entropy_with_gradients_of_x,
)
from llamac.runtime.kernels import cross_entropy, log_probability
from llamac.verify.simulated_ranks import run_on_ranks
from tests.compare import assert_close

VOCAB, DIM = 331, 12
T = TypeVar("T")
SIZES = pytest.mark.parametrize("size", [2, 4, 8])  # each pads 331, by 1, 1 and 5 rows
CHUNKS = pytest.mark.parametrize("chunk", [1, 5, 14, 100])  # of 14 tokens


def on_tp(size: int, function: Callable[[int], T]) -> list[T]:
    """`function(rank)` on every tensor-parallel rank at once."""
    return run_on_ranks({"tp": size}, GROUPS, lambda at: function(at["tp"]))


@dataclass(frozen=True)
class Batch:
    x: Tensor
    weight: Tensor
    tokens: Tensor

    def part(self, rank: int, size: int, padding: float = 3.0) -> Tensor:
        """A rank's rows of the weight; what padding holds must not matter."""
        rows = -(-VOCAB // size)
        padded = F.pad(self.weight, (0, 0, 0, rows * size - VOCAB), value=padding)
        return padded[rank * rows : (rank + 1) * rows].clone()


def batch(dtype: torch.dtype = torch.float64) -> Batch:
    torch.manual_seed(0)
    tokens = torch.randint(VOCAB, (2, 7))
    tokens[0, 0], tokens[1, 6], tokens[0, 1] = 0, VOCAB - 1, VOCAB - 1
    x, weight = torch.randn(2, 7, DIM), torch.randn(VOCAB, DIM)
    return Batch(x.to(dtype), weight.to(dtype), tokens)


def whole(parts: list[Tensor], dim: int = 0) -> Tensor:
    """The ranks' parts together; the padding among them, which is zero, left out."""
    padded = torch.cat(parts, dim)
    assert not padded.narrow(dim, VOCAB, padded.shape[dim] - VOCAB).any()
    return padded.narrow(dim, 0, VOCAB)


# -- values ----------------------------------------------------------------------------------------


@SIZES
def test_one_rank_has_each_token_s_row(size):
    b = batch()
    parts = on_tp(size, lambda r: parallel_embedding(b.tokens, b.part(r, size), "tp"))
    assert torch.equal(sum(parts), b.weight[b.tokens])  # type: ignore[arg-type]
    assert (torch.stack(parts).any(-1).sum(0) == 1).all()


@SIZES
def test_a_row_s_gradient_goes_to_the_rank_that_has_it(size):
    b = batch()
    rows = -(-VOCAB // size)
    parts = on_tp(size, lambda _: parallel_embedding_gradient(b.x, b.tokens, "tp", rows=rows))
    wanted = torch.zeros(VOCAB, DIM, dtype=torch.float64)
    wanted.index_add_(0, b.tokens.flatten(), b.x.flatten(0, 1))
    assert_close(whole(parts), wanted, "the table's gradient")


@SIZES
def test_cross_entropy_of_shared_logits(size):
    b = batch()
    logits = (b.x @ b.weight.T).requires_grad_()
    wanted = F.cross_entropy(logits.flatten(0, 1), b.tokens.flatten(), reduction="sum")
    (wanted * 1.7).backward()
    assert logits.grad is not None
    d_loss = torch.tensor(1.7, dtype=torch.float64)

    def rank(r: int) -> tuple[Tensor, Tensor]:
        mine = b.x @ b.part(r, size).T
        loss = parallel_cross_entropy(mine, b.tokens, "tp", VOCAB)
        return loss, parallel_cross_entropy_backward(d_loss, mine, b.tokens, "tp", VOCAB)

    losses, d_logits = zip(*on_tp(size, rank), strict=True)
    for loss in losses:
        assert torch.equal(loss, losses[0])
        assert_close(loss, wanted.detach(), "the loss")
    assert_close(whole(list(d_logits), -1), logits.grad, "the logits' gradient")


@SIZES
@CHUNKS
def test_fused_cross_entropy_and_its_gradients(size, chunk):
    b = batch()
    wanted = cross_entropy.linear_cross_entropy_with_gradients(b.x, b.weight, b.tokens, chunk)

    def rank(r: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        given = (b.x, b.part(r, size), b.tokens, chunk, "tp", VOCAB)
        alone = parallel_linear_cross_entropy(*given)
        return alone, parallel_linear_cross_entropy_with_gradients(*given)

    alone, together = zip(*on_tp(size, rank), strict=True)
    losses, d_x, d_weight = zip(*together, strict=True)
    for loss in (*alone, *losses):
        assert_close(loss, wanted[0], "the loss")
    assert_close(sum(d_x), wanted[1], "the gradient of x")  # type: ignore[arg-type]
    assert_close(whole(list(d_weight)), wanted[2], "the gradient of the weight")


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_large_logits_neither_overflow_nor_vanish(offset):
    b = batch(torch.float32)
    logits = b.x @ b.weight.T + offset
    wanted = F.cross_entropy(logits.flatten(0, 1).double(), b.tokens.flatten(), reduction="sum")

    def rank(r: int) -> tuple[Tensor, Tensor]:
        mine = F.pad(logits, (0, 1), value=1e30)[..., 166 * r : 166 * (r + 1)]
        one = torch.ones(())
        loss = parallel_cross_entropy(mine, b.tokens, "tp", VOCAB)
        return loss, parallel_cross_entropy_backward(one, mine, b.tokens, "tp", VOCAB)

    for loss, d_logits in on_tp(2, rank):
        torch.testing.assert_close(loss.double(), wanted, rtol=1e-3, atol=0)
        assert d_logits.isfinite().all()


def test_a_frozen_weight_s_loss_is_the_trained_one_s():
    b = batch()

    def rank(r: int) -> tuple[Tensor, ...]:
        given = (b.x, b.part(r, 2), b.tokens, 5, "tp", VOCAB)
        loss, d_x = parallel_linear_cross_entropy_with_gradients_of_x(*given)
        return loss, d_x, *parallel_linear_cross_entropy_with_gradients(*given)[:2]

    for loss, d_x, *wanted in on_tp(2, rank):
        assert torch.equal(loss, wanted[0])
        assert torch.equal(d_x, wanted[1])


def test_bfloat16_sums_in_float32():
    b = batch(torch.bfloat16)
    wanted = cross_entropy.linear_cross_entropy_with_gradients(b.x, b.weight, b.tokens, 5)

    def rank(r: int) -> tuple[Tensor, Tensor, Tensor]:
        given = (b.x, b.part(r, 2), b.tokens, 5, "tp", VOCAB)
        return parallel_linear_cross_entropy_with_gradients(*given)

    losses, d_x, d_weight = zip(*on_tp(2, rank), strict=True)
    assert losses[0].dtype == torch.float32
    torch.testing.assert_close(losses[0], wanted[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(sum(d_x), wanted[1], rtol=2e-2, atol=2e-3)
    torch.testing.assert_close(whole(list(d_weight)), wanted[2], rtol=2e-2, atol=2e-3)


# -- as a region: the vjp rules, and what leaves the ranks -----------------------------------------


def fused_region(rows: int) -> Region:
    """x → broadcast → loss, so that x's gradient is summed."""
    build = Builder()
    x = build.placeholder("x", TensorType("f64", ("B", "S", DIM)))
    kind = TensorType("f64", (rows, DIM)).with_placement("tp", "S(0)")
    weight = build.placeholder("weight", kind)
    labels = build.placeholder("labels", TensorType("i64", ("B", "S")))
    shared = build.op(OPS["broadcast"], x, axis="tp")
    loss = OPS["parallel_linear_cross_entropy"]
    options = {"chunk": 5, "axis": "tp", "vocab_size": VOCAB}
    return Region("head", build.output(build.op(loss, shared, weight, labels, **options)))


def unfused_region(rows: int) -> Region:
    """A tied table: embedded, summed over ranks, shared again, and scored against itself."""
    build = Builder()
    x = build.placeholder("x", TensorType("f64", ("B", "S", DIM)))
    kind = TensorType("f64", (rows, DIM)).with_placement("tp", "S(0)")
    weight = build.placeholder("weight", kind)
    labels = build.placeholder("labels", TensorType("i64", ("B", "S")))
    partial = build.op(OPS["parallel_embedding"], labels, weight, axis="tp")
    added = build.op(OPS["add"], x, build.op(OPS["all_reduce"], partial, axis="tp"))
    shared = build.op(OPS["broadcast"], added, axis="tp")
    logits = build.op(OPS["linear"], shared, weight)
    loss = OPS["parallel_cross_entropy"]
    return Region("head", build.output(build.op(loss, logits, labels, axis="tp", vocab_size=VOCAB)))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [2, 4])
def test_the_vjp_rules_give_the_whole_vocabulary_s_gradients(size, tied):
    b = batch()
    make = unfused_region if tied else fused_region
    region = differentiate(augment(make(-(-VOCAB // size))))
    assert region.backward is not None
    backward_graph = region.backward.graph
    d_loss = torch.tensor(0.6, dtype=torch.float64)
    (seed,) = placeholders(backward_graph, "cotangent")

    def rank(r: int) -> tuple[Tensor, dict[str, Tensor]]:
        given = {"x": b.x, "weight": b.part(r, size), "labels": b.tokens}
        forward = run_graph(region.forward.graph, given)
        backward = run_graph(backward_graph, {**given, **forward, seed.name: d_loss})
        names = {name: node.name for name, node in output_of(backward_graph).items()}
        loss = forward[output_of(region.forward.graph).name]
        return loss, {name: backward[node] for name, node in names.items()}

    found = on_tp(size, rank)

    x, weight = b.x.clone().requires_grad_(), b.weight.clone().requires_grad_()
    stream = x + weight[b.tokens] if tied else x
    wanted = F.cross_entropy((stream @ weight.T).flatten(0, 1), b.tokens.flatten(), reduction="sum")
    (wanted * 0.6).backward()
    assert x.grad is not None
    assert weight.grad is not None
    for loss, gradients in found:
        assert_close(loss, wanted.detach(), "the loss")
        assert_close(gradients["x"], x.grad, "the gradient of x")
    parts = [gradients["weight"] for _, gradients in found]
    assert_close(whole(parts), weight.grad, "the gradient of the weight")


# -- types -----------------------------------------------------------------------------------------

FUSED = {"chunk": 4, "axis": "tp", "vocab_size": 11}


def inferred(op: str, operands: str, **attributes: Any) -> str:
    build = Builder()
    kinds = [TensorType.parse(word) for word in operands.split()]
    nodes = [build.placeholder(f"operand_{n}", kind) for n, kind in enumerate(kinds)]
    found = build.op(OPS[op], *nodes, **attributes)
    values = found if isinstance(found, tuple) else (found,)
    return " ".join(str(value.meta["type"]) for value in values)


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "result"),
    [
        ("parallel_embedding", "i64[B,S] f32[6,8]@tp:S(0)", {"axis": "tp"}, "f32[B,S,8]@tp:P"),
        (
            "parallel_embedding",
            "i64[B,S/cp]@cp:S(1) f32[6,8]@tp:S(0)",
            {"axis": "tp"},
            "f32[B,S/cp,8]@cp:S(1),tp:P",
        ),
        (
            "parallel_embedding_gradient",
            "f32[B,S,8] i64[B,S]",
            {"axis": "tp", "rows": 6},
            "f32[6,8]@tp:S(0)",
        ),
        (
            "parallel_embedding_gradient",
            "f32[B,S/cp,8]@cp:S(1) i64[B,S/cp]@cp:S(1)",
            {"axis": "tp", "rows": 6},
            "f32[6,8]@cp:P,tp:S(0)",
        ),
        (
            "parallel_cross_entropy",
            "bf16[B,S/cp,6]@cp:S(1),tp:S(2) i64[B,S/cp]@cp:S(1)",
            {"axis": "tp", "vocab_size": 11},
            "f32[]",
        ),
        (
            "parallel_cross_entropy_backward",
            "f32[] bf16[B,S/cp,6]@cp:S(1),tp:S(2) i64[B,S/cp]@cp:S(1)",
            {"axis": "tp", "vocab_size": 11},
            "bf16[B,S/cp,6]@cp:S(1),tp:S(2)",
        ),
        (
            "parallel_linear_cross_entropy",
            "bf16[B,S/cp,8]@cp:S(1) bf16[6,8]@tp:S(0) i64[B,S/cp]@cp:S(1)",
            FUSED,
            "f32[]",
        ),
        (
            "parallel_linear_cross_entropy_with_gradients",
            "f32[B,S,8] f32[6,8]@tp:S(0) i64[B,S]",
            FUSED,
            "f32[] f32[B,S,8]@tp:P f32[6,8]@tp:S(0)",
        ),
        (
            "parallel_linear_cross_entropy_with_gradients",
            "bf16[B,S/cp,8]@cp:S(1) bf16[6,8]@tp:S(0) i64[B,S/cp]@cp:S(1)",
            FUSED,
            "f32[] bf16[B,S/cp,8]@cp:S(1),tp:P bf16[6,8]@cp:P,tp:S(0)",
        ),
        (
            "parallel_linear_cross_entropy_with_gradients_of_x",
            "bf16[B,S/cp,8]@cp:S(1) bf16[6,8]@tp:S(0) i64[B,S/cp]@cp:S(1)",
            FUSED,
            "f32[] bf16[B,S/cp,8]@cp:S(1),tp:P",
        ),
        ("drop_padding", "f32[B,S/cp,12]@cp:S(1)", {"size": 11}, "f32[B,S/cp,11]@cp:S(1)"),
    ],
)
def test_layouts(op, operands, attributes, result):
    assert inferred(op, operands, **attributes) == result


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "message"),
    [
        ("parallel_embedding", "i64[B,S] f32[6,8]", {"axis": "tp"}, "must split the vocabulary"),
        (
            "parallel_embedding",
            "i64[B,S/tp]@tp:S(1) f32[6,8]@tp:S(0)",
            {"axis": "tp"},
            "must be replicated over tp",
        ),
        ("parallel_embedding", "f32[B,S] f32[6,8]@tp:S(0)", {"axis": "tp"}, "must be i64"),
        (
            "parallel_embedding_gradient",
            "f32[B,S,8]@tp:P i64[B,S]",
            {"axis": "tp", "rows": 6},
            "must be replicated over tp",
        ),
        (
            "parallel_cross_entropy",
            "f32[B,S,11] i64[B,S]",
            {"axis": "tp", "vocab_size": 11},
            "must split the vocabulary",
        ),
        (
            "parallel_linear_cross_entropy",
            "f32[B,S,8]@tp:P f32[6,8]@tp:S(0) i64[B,S]",
            FUSED,
            "must be replicated over tp",
        ),
        (
            "parallel_linear_cross_entropy",
            "f32[B,S/cp,8]@cp:S(1) f32[6,8]@tp:S(0) i64[B,S/cp]",
            FUSED,
            "only some of its operands",
        ),
        (
            "drop_padding",
            "f32[B,S,12]@tp:S(2)",
            {"size": 11},
            "splits a dimension that the op needs whole",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(op, operands, attributes, message):
    with pytest.raises(TypeRuleError, match=message):
        inferred(op, operands, **attributes)


# -- between real processes ------------------------------------------------------------------------


def _check(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    with process_group("gloo", FileStore(store, 2), rank, 2):
        group = dist.group.WORLD
        assert group is not None
        collectives.GROUPS["tp"] = collectives.ProcessGroup(group.group_name, 2, rank)
        b = batch()
        wanted = cross_entropy.linear_cross_entropy_with_gradients(b.x, b.weight, b.tokens, 5)
        given = (b.x, b.part(rank, 2), b.tokens, 5, "tp", VOCAB)
        loss, d_x, d_weight = parallel_linear_cross_entropy_with_gradients(*given)
        assert_close(loss, wanted[0], "the loss")
        assert_close(parallel_linear_cross_entropy(*given), wanted[0], "the loss alone")
        assert_close(collectives.all_reduce(d_x, "tp"), wanted[1], "the gradient of x")
        gathered = collectives.all_gather(d_weight, "tp", 0)
        assert_close(whole([gathered]), wanted[2], "the gradient of the weight")
        x = collectives.all_reduce(parallel_embedding(b.tokens, b.part(rank, 2), "tp"), "tp")
        assert torch.equal(x, b.weight[b.tokens])


@pytest.mark.slow
def test_between_two_processes(tmp_path):
    mp.spawn(_check, (str(tmp_path / "store"),), nprocs=2)  # type: ignore[attr-defined]


# -- log-probabilities of sequences ----------------------------------------------------------------


@SIZES
@CHUNKS
def test_log_probabilities_and_their_gradients_are_those_of_one_rank(size, chunk):
    b = batch()
    labels = b.tokens.clone()
    labels[:, -1] = -1  # padding
    d_rows = torch.tensor([0.3, -1.7], dtype=torch.float64)[: len(labels)]
    fused = log_probability.linear_log_probability_backward
    wanted = log_probability.linear_log_probability(b.x, b.weight, labels, chunk)
    d_x, d_weight = fused(b.x, b.weight, labels, d_rows, chunk)
    d_logits = log_probability.log_probability_backward(d_rows, b.x @ b.weight.T, labels)

    def rank(r: int) -> tuple[Tensor, ...]:
        mine, tail = b.part(r, size), ("tp", VOCAB)
        logits = b.x @ mine.T
        value, unit = parallel.parallel_linear_log_probability_with_gradients_of_x(
            b.x, mine, labels, chunk, *tail
        )
        return (
            parallel.parallel_log_probability(logits, labels, *tail),
            parallel.parallel_linear_log_probability(b.x, mine, labels, chunk, *tail),
            value,
            log_probability.scale_rows(unit, d_rows),
            *parallel.parallel_linear_log_probability_backward(
                b.x, mine, labels, d_rows, chunk, *tail
            ),
            parallel.parallel_log_probability_backward(d_rows, logits, labels, *tail),
        )

    *values, frozen, of_x, of_weight, of_logits = zip(*on_tp(size, rank), strict=True)
    for value in (one for several in values for one in several):
        assert_close(value, wanted, "the log-probabilities")
    assert_close(sum(of_x), d_x, "the gradient of x")  # type: ignore[arg-type]
    assert_close(sum(frozen), d_x, "the gradient of x beside a frozen weight")  # type: ignore[arg-type]
    assert_close(whole(list(of_weight)), d_weight, "the gradient of the weight")
    assert_close(whole(list(of_logits), -1), d_logits, "the gradient of the logits")
