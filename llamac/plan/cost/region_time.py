"""Time of a region's forward and backward pass, and the bytes that it sends."""

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
    """Time of one run of a graph.

    Attributes:
        spans: Ops and transfers with begin and end in seconds from the graph's start, in order.
        seconds: Duration of the run.
        exposed: Part of `seconds` in which compute waits for transfers.
        sent: (mesh axis, bytes that a rank sends) of each transfer.
        flops: FLOPs of all ops on one rank.
    """

    spans: tuple[Span, ...]
    seconds: float
    exposed: float
    sent: tuple[tuple[str, float], ...]
    flops: float

    @property
    def waits(self) -> list[Span]:
        """Return the spans of the transfers that compute waits for."""
        return [span for span in self.spans if span.exposed]


@dataclass(frozen=True)
class RegionTime:
    """Time of one micro-batch in a region.

    Attributes:
        forward, backward: Seconds of each pass; backward is 0 without one.
        exposed: Seconds of both passes in which compute waits for transfers.
        sent: Bytes that a rank sends in both passes, by mesh axis.
        flops: FLOPs of both passes on one rank.
    """

    forward: float
    backward: float
    exposed: float
    sent: Mapping[str, float]
    flops: float

    @property
    def seconds(self) -> float:
        """Return the seconds of both passes."""
        return self.forward + self.backward


_times: WeakKeyDictionary[fx.GraphModule, dict[tuple[object, ...], GraphTime]]
_times = WeakKeyDictionary()


def region_time(region: Region, cost: DeviceCost) -> RegionTime:
    """Return the predicted time of one micro-batch in a region.

    The times of the region's graphs are cached by `DeviceCost.key`.
    """
    graphs = [
        graph_time(graph, cost) for graph in (region.forward, region.backward) if graph is not None
    ]
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
    """Return the predicted time of one run of a graph, cached by graph and `DeviceCost.key`."""
    cached = _times.setdefault(module, {})
    key = cost.key
    if key not in cached:
        cached[key] = _time_graph(module, cost)
    return cached[key]


SHARPNESS = 4.0
"""Exponent in `with_host`, from vTrain's runs whose host and device take about equally long."""


def with_host(device: float, host: float) -> float:
    """Return the seconds of a graph whose kernels take `device` and their launches `host` seconds.

    This is about the larger of the two. If they are similar, it is more, since each waits for the
    other in turn: the device for the host at small kernels, the host for the device at large ones.
    """
    longest = max(device, host)
    if not longest:
        return 0.0
    shares = (device / longest) ** SHARPNESS + (host / longest) ** SHARPNESS
    return longest * shares ** (1 / SHARPNESS)


def clear_cache() -> None:
    """Drop the cached times of all graphs."""
    _times.clear()


def _time_graph(module: fx.GraphModule, cost: DeviceCost) -> GraphTime:
    nodes = list(ops_in(module.graph))
    hides = cost.profile.hides
    spans = timeline(nodes, cost).spans if hides is None else _sequential(nodes, cost, hides)
    seconds, exposed = _ends(spans), sum(span.exposed for span in spans)
    total = with_host(seconds, sum(map(cost.host_seconds, nodes)))
    if total > seconds > 0:
        # Where kernels start later than the device could run them, it waits less for transfers,
        # which go on meanwhile.
        still_exposed = max(0.0, exposed - (total - seconds))
        busy = seconds - exposed
        spans = _stretch(
            spans, (total - still_exposed) / busy, still_exposed / exposed if exposed else 1.0
        )
        seconds, exposed = total, still_exposed
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


def _sequential(nodes: Iterable[fx.Node], cost: DeviceCost, hides: float) -> list[Span]:
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


def _stretch(spans: Iterable[Span], work: float, wait: float) -> list[Span]:
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
