"""Roofline estimate of when each op of a graph runs, with collectives running concurrently.

An op takes the time of its arithmetic or of its memory traffic, whichever is longer; a collective
takes the time of its bytes on the wire. Each mesh axis transfers one collective at a time. The
default rates are those of an A100 with NVLink. The estimate serves to order ops and to show the
order: it ignores latency, launch overhead and contention.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import fx

from llamac.ir.graph import attributes, op_of, type_of
from llamac.ir.values import operands_of, operation_count, values_of
from llamac.ops.async_collectives import BY_START, is_collective, is_start, is_wait
from llamac.ops.async_tensor import is_fused_collective
from llamac.ops.collectives import all_reduce

Lane = str  # "compute", or a mesh axis
COMPUTE: Lane = "compute"


@dataclass(frozen=True)
class Rates:
    """Achievable rates of a device.

    device: name of the device. flops: FLOP/s of a large matmul. memory: bytes/s of device memory.
    wire: bytes/s that each rank sends.
    """

    device: str
    flops: float
    memory: float
    wire: float


A100 = Rates("A100, NVLink", flops=271e12, memory=1.5e12, wire=250e9)
"""Rates of an A100 in bf16 with NVLink, which passes assume for every device."""


@dataclass(frozen=True)
class TimingModel:
    """Roofline model of the seconds that ops and collectives take.

    symbols, mesh: sizes of the Program's symbolic dimensions and mesh axes.
    rates: passes use the A100's, so that the compiled Program does not depend on the spec's device.
    """

    symbols: Mapping[str, int]
    mesh: Mapping[str, int]
    rates: Rates = A100

    def seconds(self, node: fx.Node) -> float:
        """Return the seconds of an op, or of a collective's transfer; 0 for views and waits."""
        if is_wait(node) or op_of(node).cost == "view":
            return 0.0
        if is_start(node) or is_collective(node):
            return self.wire_bytes(node) / self.rates.wire
        traffic = {value: self._nbytes(value) for value in (*operands_of(node), *values_of(node))}
        under = self.wire_bytes(node) / self.rates.wire if is_fused_collective(node) else 0.0
        compute = operation_count(node, self.symbols) / self.rates.flops
        return max(compute, sum(traffic.values()) / self.rates.memory, under)

    def wire_bytes(self, node: fx.Node) -> float:
        """Return the bytes that each rank sends in a ring collective.

        That is (n - 1) / n of the full tensor over n ranks, and twice that for an all_reduce.
        """
        ranks = self.mesh[attributes(node)["axis"]]
        if is_fused_collective(node):  # before the matmul its input, or after it its output
            kind = node.meta["type"]
            share = (
                self._nbytes(operands_of(node)[0])
                if isinstance(kind, tuple)
                else self._nbytes(node)
            )
            return share * (ranks - 1)
        whole = max(self._nbytes(node), self._nbytes(operands_of(node)[0]))
        op = BY_START[op_of(node)].synchronous if is_start(node) else op_of(node)
        return whole * (ranks - 1) / ranks * (2 if op is all_reduce else 1)

    def _nbytes(self, value: fx.Node) -> int:
        return type_of(value).nbytes(self.symbols)


@dataclass(frozen=True)
class Span:
    """Interval in which one op runs, in seconds from the graph's start.

    lane: `compute`, or the mesh axis of a collective.
    exposed: seconds that computation waited for a collective.
    """

    node: fx.Node
    lane: Lane
    begin: float
    end: float
    exposed: float = 0.0

    @property
    def kind(self) -> Literal["compute", "collective"]:
        """`collective` if the op runs on a mesh axis, else `compute`."""
        return "compute" if self.lane == COMPUTE else "collective"


@dataclass(frozen=True)
class Timeline:
    """Simulated schedule of a graph.

    spans: intervals of all ops with a duration, in program order.
    seconds: time at which computation ends.
    """

    spans: tuple[Span, ...]
    seconds: float

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """`compute`, then the mesh axes in the order of their first collective."""
        axes = (span.lane for span in self.spans if span.kind == "collective")
        return (COMPUTE, *dict.fromkeys(axes))

    @property
    def communication(self) -> float:
        """Total seconds of all collectives, hidden or not."""
        return sum(span.end - span.begin for span in self.spans if span.kind == "collective")

    @property
    def exposed(self) -> float:
        """Total seconds that computation waited for collectives."""
        return sum(span.exposed for span in self.spans)


def timeline(order: Iterable[fx.Node], timing: TimingModel) -> Timeline:
    """Simulate ops in the given order and return the schedule.

    A collective that is never waited for does not delay the end of the computation.
    """
    spans: dict[fx.Node, Span] = {}
    now, free = 0.0, dict.fromkeys(timing.mesh, 0.0)
    for node in order:
        seconds = timing.seconds(node)
        if is_wait(node):
            (start,) = operands_of(node)
            span = spans[start]
            stall = max(0.0, span.end - now)
            spans[start] = Span(start, span.lane, span.begin, span.end, stall)
            now += stall
        elif is_start(node) or is_collective(node):
            axis = attributes(node)["axis"]
            begin = max(now, free[axis])
            free[axis] = begin + seconds
            stall = 0.0 if is_start(node) else free[axis] - now
            spans[node] = Span(node, axis, begin, free[axis], stall)
            now += stall
        elif seconds:
            spans[node] = Span(node, COMPUTE, now, now + seconds)
            now += seconds
    return Timeline(tuple(spans.values()), now)
