"""Break a step's time down: by op, by region, and by transfer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from llamac.ir.graph import attributes, op_of, ops_in, results, type_of
from llamac.ir.types import TensorType
from llamac.ir.values import operands_of, operation_count, values_of
from llamac.passes.analysis.timing import COMPUTE
from llamac.plan.cost.data_parallel import Transfer
from llamac.plan.device.device import Device
from llamac.plan.timeline.step import StepTimeline
from llamac.plan.timeline.step_events import DATA, PIPELINE, Event

WITHIN, BETWEEN = "within a node", "between nodes"


@dataclass(frozen=True)
class RegionCost:
    """A region's graph on the slowest rank.

    count: Runs per step. Per run: seconds, waits included; waits: seconds of exposed transfers;
    flops; nbytes: bytes moved in device memory.
    """

    region: str
    direction: str
    count: int
    seconds: float
    waits: float
    flops: float
    nbytes: float

    @property
    def total(self) -> float:
        return self.count * self.seconds


@dataclass(frozen=True)
class OpCost:
    """Ops of one kind and shape, in one region and direction.

    count: Ops per step. seconds, flops, nbytes: Per op. bound: Its bottleneck
    (`bound_of`).
    """

    region: str
    direction: str
    op: str
    shape: str
    count: int
    flops: float
    nbytes: float
    seconds: float
    bound: str

    @property
    def total(self) -> float:
        return self.count * self.seconds


@dataclass(frozen=True)
class TransferCost:
    """Transfers of one kind.

    ranks: Size of the group; link: the slowest link that it crosses. nbytes: Bytes that a rank
    sends per transfer. count: Transfers per step. seconds: Per transfer; exposed: those of them for
    which compute waits. node: (region, direction, name) of a transfer that belongs to a graph.
    """

    where: str
    kind: str
    axis: str
    ranks: int
    link: str
    nbytes: float
    count: int
    seconds: float
    exposed: float
    node: tuple[str, str, str] | None = None


def regions(step: StepTimeline) -> list[RegionCost]:
    """Return the cost of each region's graphs, by descending time per step."""
    found = []
    for (region, way), count in _runs(step).items():
        timed, nodes = step.graphs[region, way], list(ops_in(step.graph(region, way)))
        flops = sum(operation_count(node, step.cost.symbols) for node in nodes)
        moved = sum(traffic(step, node) for node in nodes)
        waits = sum(span.exposed for span in timed.waits)
        found.append(RegionCost(region, way, count, timed.seconds, waits, flops, moved))
    return sorted(found, key=lambda one: -one.total)


def ops(step: StepTimeline) -> list[OpCost]:
    """Return the cost of each kind of op, by descending time per step."""
    found: dict[tuple[str, ...], OpCost] = {}
    for (region, way), count in _runs(step).items():
        for span in step.graphs[region, way].spans:
            if span.lane == COMPUTE:
                node, takes = span.node, span.end - span.begin
                name, shape = op_of(node).name, _shape(step, node)
                flops, moved = operation_count(node, step.cost.symbols), traffic(step, node)
                key = (region, way, name, shape)
                times = count + (found[key].count if key in found else 0)
                limit = bound_of(step, flops, moved)
                found[key] = OpCost(region, way, name, shape, times, flops, moved, takes, limit)
    return sorted(found.values(), key=lambda one: -one.total)


def transfer_costs(step: StepTimeline) -> list[TransferCost]:
    """Return collectives of the graphs by region, then of data ranks and of pipeline stages."""
    found = []
    device, mesh = step.prediction.setting.device, step.cost.mesh
    for (region, way), count in _runs(step).items():
        for span in step.graphs[region, way].spans:
            if span.lane != COMPUTE:
                axis = attributes(span.node)["axis"]
                kind = op_of(span.node).name.removesuffix("_start")
                link = link_of(device, mesh[axis], step.cost.strides[axis])
                sent, takes = step.cost.wire_bytes(span.node), span.end - span.begin
                where = f"{region} {way}: {_result(span.node)}"
                numbers = sent, count, takes, span.exposed
                node = region, way, span.node.name
                found.append(TransferCost(where, kind, axis, mesh[axis], link, *numbers, node))
    return found + _around(step)


def _around(step: StepTimeline) -> list[TransferCost]:
    """Return the transfers outside graphs: of data-parallel ranks and pipeline stages."""
    seconds, device = step.prediction.seconds, step.prediction.setting.device
    waited = {DATA: seconds.data, PIPELINE: seconds.pipeline}
    alike: dict[tuple[str, Transfer | None], list[Event]] = {}
    for event in step.events:
        if event.lane in waited:
            alike.setdefault((event.lane, event.transfer), []).append(event)
    whole = dict.fromkeys(waited, 0.0)
    for (lane, one), events in alike.items():
        whole[lane] += sum(_seconds(event, one) for event in events)
    model, found = step.model, []
    for (lane, one), events in alike.items():
        takes = _seconds(events[0], one)
        exposed = takes * min(1.0, waited[lane] / whole[lane]) if whole[lane] else 0.0
        if one is None:
            stride = model.tp * model.cp * model.data
            where, kind, axis, ranks = "between stages", "send", "pp", model.pp
            sent = events[0].nbytes
        else:
            where = {"gather": "parameters", "reduce": "gradients"}[one.purpose]
            kind, axis, ranks, stride = one.collective, one.axis, one.ranks, one.stride
            sent = one.nbytes
        link = link_of(device, ranks, stride)
        found.append(
            TransferCost(where, kind, axis, ranks, link, sent, len(events), takes, exposed)
        )
    return found


def _seconds(event: Event, transfer: Transfer | None) -> float:
    return transfer.seconds if transfer else event.end - event.begin


def breakdown_json(step: StepTimeline, by_op: bool, collectives: bool) -> dict[str, Any]:
    """Return the JSON values of `--ops` and `--collectives`: bytes, FLOPs and seconds."""
    found: dict[str, Any] = {}
    if by_op:
        found["regions"] = [vars(one) for one in regions(step)]
        found["ops"] = [vars(one) for one in ops(step)]
    if collectives:
        found["collectives"] = [vars(one) for one in transfer_costs(step)]
    return found


def link_of(device: Device, ranks: int, stride: int) -> str:
    """Return the kind of the slowest link that a group's transfers cross."""
    return WITHIN if ranks * stride <= device.gpus_per_node else BETWEEN


def _runs(step: StepTimeline) -> Mapping[tuple[str, Any], int]:
    """Return the number of runs per step of each graph."""
    found: dict[tuple[str, Any], int] = {}
    for event in step.events:
        if event.runs:
            found[event.name, event.kind] = found.get((event.name, event.kind), 0) + 1
    return found


def traffic(step: StepTimeline, node: fx.Node) -> int:
    """Return bytes that an op reads and writes; 0 for a view."""
    if op_of(node).cost == "view":
        return 0
    values = {*operands_of(node), *values_of(node)}
    return sum(type_of(value).nbytes(step.cost.symbols) for value in values)


def bound_of(step: StepTimeline, flops: float, nbytes: float) -> str:
    """Return the bottleneck of an op: arithmetic, memory or launch overhead."""
    device = step.prediction.setting.device
    limits = {
        "arithmetic": flops / device.flops(step.cost.dtype),
        "memory": nbytes / device.memory_bandwidth,
        "launch": device.efficiency.kernel,
    }
    return max(limits, key=lambda limit: limits[limit])


def _shape(step: StepTimeline, node: fx.Node) -> str:
    """Return an op's shapes as text: `[1,2048,8192] [5504,8192] → [1,2048,5504]`."""
    kinds = node.meta["type"]
    made = kinds[0] if isinstance(kinds, tuple) else kinds
    read = " ".join(_sizes(step, type_of(one)) for one in operands_of(node)[:2])
    return f"{read} → {_sizes(step, made)}"


def _sizes(step: StepTimeline, kind: TensorType) -> str:
    sizes = (step.cost.symbols[dim] if isinstance(dim, str) else dim for dim in kind.shape)
    return f"[{','.join(map(str, sizes))}]"


def _result(node: fx.Node) -> str:
    value = next((value for value in results(node) if value is not None), node)
    return value.name.removesuffix("_started")
