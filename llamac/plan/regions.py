"""How long a region of a Program takes, forward and back, and what it sends meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import fx

from llamac.ir.graph import ops_in
from llamac.ir.program import Region
from llamac.ir.values import operation_count
from llamac.passes.timing import timeline
from llamac.plan.clock import DeviceClock


@dataclass(frozen=True)
class Pass:
    """A region, once: seconds of its forward and backward, and of both what a rank waits for
    transfers; bytes sent by axis; operations."""

    forward: float
    backward: float
    exposed: float
    sent: Mapping[str, float]
    flops: float

    @property
    def seconds(self) -> float:
        return self.forward + self.backward


@dataclass(frozen=True)
class Way:
    """One graph of a region. sent: (axis, bytes)."""

    seconds: float
    exposed: float
    sent: tuple[tuple[str, float], ...]
    flops: float


_ways: WeakKeyDictionary[fx.GraphModule, dict[tuple[object, ...], Way]] = WeakKeyDictionary()


def run_once(region: Region, clock: DeviceClock) -> Pass:
    """One micro-batch through a region; its graphs are looked at once for each clock."""
    ways = [_way(one, clock) for one in (region.forward, region.backward) if one is not None]
    sent = dict.fromkeys(clock.mesh, 0.0)
    for way in ways:
        for axis, nbytes in way.sent:
            sent[axis] += nbytes
    return Pass(
        forward=ways[0].seconds,
        backward=ways[1].seconds if len(ways) > 1 else 0.0,
        exposed=sum(way.exposed for way in ways),
        sent=sent,
        flops=sum(way.flops for way in ways),
    )


def _way(module: fx.GraphModule, clock: DeviceClock) -> Way:
    known = _ways.setdefault(module, {})
    key = clock.key
    if key not in known:
        known[key] = _timed(module, clock)
    return known[key]


def _timed(module: fx.GraphModule, clock: DeviceClock) -> Way:
    nodes = list(ops_in(module.graph))
    line = timeline(nodes, clock)
    seconds, exposed = line.seconds, line.exposed
    hides = clock.style.hides
    if hides is not None:
        seconds, exposed = seconds - exposed, line.communication * (1 - hides)
        seconds += exposed
    host = clock.style.host * sum(map(clock.kernels, nodes))
    transfers = [span for span in line.spans if span.kind == "collective"]
    return Way(
        seconds=max(seconds, host),
        exposed=max(0.0, exposed - max(0.0, host - seconds)),
        sent=tuple((span.lane, clock.wire_bytes(span.node)) for span in transfers),
        flops=sum(operation_count(node, clock.symbols) for node in nodes),
    )
