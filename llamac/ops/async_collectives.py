"""Asynchronous collectives: a start op, which returns at once, and a wait op for the result.

The start op's value has the type of the result, whose memory is allocated at the start. Its only
reader must be its wait, which the verifier checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps

from torch import Tensor, fx

from llamac.ir.graph import is_op
from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect
from llamac.ops.collectives import all_gather, all_reduce, reduce_scatter
from llamac.runtime.distributed import collectives


def _infer_wait_replicated(started: TensorType, *, axis: str, dim: int | None = None) -> TensorType:
    _expect_placement(started, axis, "R")
    return started


def _infer_wait_shard(started: TensorType, *, axis: str, dim: int) -> TensorType:
    _expect_placement(started, axis, f"S({dim})")
    return started


def _expect_placement(started: TensorType, axis: str, placement: str) -> None:
    found = started.placement(axis)
    expect(
        found == placement, f"on {axis} it gives {placement}, but the operand is typed as {found}"
    )


@wraps(collectives.all_gather_start)
def _start_all_gather(x: Tensor, axis: str, dim: int, size: int) -> Tensor:
    return collectives.all_gather_start(x, axis, dim)


@wraps(collectives.reduce_scatter_start)
def _start_reduce_scatter(x: Tensor, axis: str, dim: int, size: int) -> Tensor:
    return collectives.reduce_scatter_start(x, axis, dim)


all_gather_start = Op(
    "all_gather_start",
    all_gather.infer,
    _start_all_gather,
    emit=lambda x, axis, dim, size: f"all_gather_start({x}, {axis}, dim={dim})",
    cost="save",
)
all_gather_wait = Op(
    "all_gather_wait",
    _infer_wait_replicated,
    collectives.all_gather_wait,
    emit=lambda x, axis, dim: f"all_gather_wait({x}, {axis}, dim={dim})",
    cost="view",
)
reduce_scatter_start = Op(
    "reduce_scatter_start",
    reduce_scatter.infer,
    _start_reduce_scatter,
    emit=lambda x, axis, dim, size: f"reduce_scatter_start({x}, {axis}, dim={dim})",
    cost="save",
)
reduce_scatter_wait = Op(
    "reduce_scatter_wait",
    _infer_wait_shard,
    collectives.reduce_scatter_wait,
    emit=lambda x, axis, dim: f"reduce_scatter_wait({x}, {axis}, dim={dim})",
    cost="view",
)
all_reduce_start = Op(
    "all_reduce_start",
    all_reduce.infer,
    collectives.all_reduce_start,
    emit=lambda x, axis: f"all_reduce_start({x}, {axis})",
    cost="save",
)
all_reduce_wait = Op(
    "all_reduce_wait",
    _infer_wait_replicated,
    collectives.all_reduce_wait,
    emit=lambda x, axis: f"all_reduce_wait({x}, {axis})",
    cost="view",
)


@dataclass(frozen=True)
class AsyncCollective:
    """A synchronous collective, and the start and wait ops that replace it.

    start: op that starts the transfer. wait: op that takes its value and gives the result.
    """

    synchronous: Op
    start: Op
    wait: Op


ASYNC_COLLECTIVES = (
    AsyncCollective(all_gather, all_gather_start, all_gather_wait),
    AsyncCollective(reduce_scatter, reduce_scatter_start, reduce_scatter_wait),
    AsyncCollective(all_reduce, all_reduce_start, all_reduce_wait),
)
"""All collectives that have an asynchronous form."""

BY_COLLECTIVE = {form.synchronous: form for form in ASYNC_COLLECTIVES}
"""`ASYNC_COLLECTIVES` by their synchronous op."""

BY_START = {form.start: form for form in ASYNC_COLLECTIVES}
"""`ASYNC_COLLECTIVES` by their start op."""

WAITS = frozenset(form.wait for form in ASYNC_COLLECTIVES)
"""Wait ops of `ASYNC_COLLECTIVES`."""


def is_collective(node: fx.Node) -> bool:
    """Return whether a node calls a synchronous collective that has an asynchronous form."""
    return is_op(node, *BY_COLLECTIVE)


def is_start(node: fx.Node) -> bool:
    """Return whether a node starts an asynchronous collective."""
    return is_op(node, *BY_START)


def is_wait(node: fx.Node) -> bool:
    """Return whether a node waits for an asynchronous collective."""
    return is_op(node, *WAITS)
