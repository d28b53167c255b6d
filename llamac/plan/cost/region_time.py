"""Time of a region of a Program, forward and backward, and the bytes that it sends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from torch import fx

from llamac.ir.graph import attributes, ops_in
from llamac.ir.program import Region
from llamac.ir.values import operation_count
from llamac.ops.async_collectives import is_collective, is_start, is_wait
from llamac.passes.analysis.timing import COMPUTE, Span, timeline
from llamac.plan.cost.device_cost import DeviceCost


@dataclass(frozen=True)
class GraphTime:
    """One graph run once, in seconds from its beginning.

    Attributes:
        spans: Ops and transfers, in order of the graph.
        exposed: Seconds in which compute waits for transfers.
        sent: (mesh axis, bytes that a rank sends), for each transfer.
    """

    spans: tuple[Span, ...]
    seconds: float
    exposed: float
    sent: tuple[tuple[str, float], ...]
    flops: float

    @property
    def waits(self) -> list[Span]:
        return [span for span in self.spans if span.exposed]


@dataclass(frozen=True)
class RegionTime:
    """One micro-batch through a region.

    Attributes:
        forward, backward: Seconds of each pass.
        exposed: Seconds of both in which compute waits for transfers.
        sent: Bytes that a rank sends, by mesh axis.
    """

    forward: float
    backward: float
    exposed: float
    sent: Mapping[str, float]
    flops: float

    @property
    def seconds(self) -> float:
        return self.forward + self.backward


_times: WeakKeyDictionary[fx.GraphModule, dict[tuple[object, ...], GraphTime]]
_times = WeakKeyDictionary()


def region_time(region: Region, cost: DeviceCost) -> RegionTime:
    """Time a region; each of its graphs is timed once for each `DeviceCost.key`."""
    graphs = [graph_time(one, cost) for one in (region.forward, region.backward) if one is not None]
    sent = dict.fromkeys(cost.mesh, 0.0)
    for graph in graphs:
        for axis, nbytes in graph.sent:
            sent[axis] += nbytes
    return RegionTime(
        forward=graphs[0].seconds,
        backward=graphs[1].seconds if len(graphs) > 1 else 0.0,
        exposed=sum(graph.exposed for graph in graphs),
        sent=sent,
        flops=sum(graph.flops for graph in graphs),
    )


def graph_time(module: fx.GraphModule, cost: DeviceCost) -> GraphTime:
    """Time a graph, once for each `DeviceCost.key`."""
    known = _times.setdefault(module, {})
    key = cost.key
    if key not in known:
        known[key] = _timed(module, cost)
    return known[key]


SHARPNESS = 4.0
"""Exponent of `with_host`, chosen near vTrain's runs whose host and device take about as long."""


def with_host(device: float, host: float) -> float:
    """Return seconds of a graph of which the device takes `device`, and starting it `host`.

    The larger of the two if they differ much. Where they do not, each is late in some stretches:
    the host between small kernels, the device behind large ones.
    """
    longest = max(device, host)
    if not longest:
        return 0.0
    shares = (device / longest) ** SHARPNESS + (host / longest) ** SHARPNESS
    return longest * shares ** (1 / SHARPNESS)


def forget() -> None:
    """Drop all cached times."""
    _times.clear()


def _timed(module: fx.GraphModule, cost: DeviceCost) -> GraphTime:
    nodes = list(ops_in(module.graph))
    hides = cost.profile.hides
    spans = timeline(nodes, cost).spans if hides is None else _in_turn(nodes, cost, hides)
    seconds, exposed = _ends(spans), sum(span.exposed for span in spans)
    total = with_host(seconds, sum(map(cost.host_seconds, nodes)))
    if total > seconds > 0:
        # Where kernels start later than the device could run them, it waits less for transfers,
        # which go on meanwhile.
        left = max(0.0, exposed - (total - seconds))
        busy = seconds - exposed
        spans = _stretched(spans, (total - left) / busy, left / exposed if exposed else 1.0)
        seconds, exposed = total, left
    transfers = [span for span in spans if span.kind == "collective"]
    return GraphTime(
        spans=tuple(spans),
        seconds=seconds,
        exposed=exposed,
        sent=tuple((span.lane, cost.wire_bytes(span.node)) for span in transfers),
        flops=sum(operation_count(node, cost.symbols) for node in nodes),
    )


def _ends(spans: Iterable[Span]) -> float:
    """Return the end time of the last op or exposed transfer."""
    ends = [span.end for span in spans if span.lane == COMPUTE or span.exposed]
    return max(ends, default=0.0)


def _in_turn(nodes: Iterable[fx.Node], cost: DeviceCost, hides: float) -> list[Span]:
    """Return spans of ops run in sequence, with the share `hides` of each transfer hidden."""
    spans, now = [], 0.0
    for node in nodes:
        if is_wait(node):
            continue
        seconds = cost.seconds(node)
        if is_start(node) or is_collective(node):
            stall = seconds * (1 - hides)
            begin = max(0.0, now + stall - seconds)
            now += stall
            spans.append(Span(node, attributes(node)["axis"], begin, now, stall))
        elif seconds:
            spans.append(Span(node, COMPUTE, now, now + seconds))
            now += seconds
    return spans


def _stretched(spans: Iterable[Span], work: float, wait: float) -> list[Span]:
    """Return spans with compute time scaled by `work` and waiting time by `wait`."""
    spans = list(spans)
    waits = [(span.end - span.exposed, span.end) for span in spans if span.exposed]

    def at(time: float) -> float:
        waited = sum(max(0.0, min(time, end) - begin) for begin, end in waits if begin < time)
        return (time - waited) * work + waited * wait

    return [
        replace(span, begin=at(span.begin), end=at(span.end), exposed=span.exposed * wait)
        for span in spans
    ]
