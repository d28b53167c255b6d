"""Break down the time of a step by region, op and transfer."""

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
    """Cost of a region's forward or backward graph on the timeline's rank.

    Attributes:
        direction: `forward` or `backward`.
        count: Runs per step.
        seconds: Duration of a run, including waits.
        waits: Seconds of a run in which compute waits for transfers.
        flops: FLOPs of a run. nbytes: Bytes that the ops of a run move in device memory.
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
        """Return the seconds of all runs in a step."""
        return self.count * self.seconds


@dataclass(frozen=True)
class OpCost:
    """Cost of the ops of one kind and shape, in one region and direction.

    Attributes:
        direction: `forward` or `backward`.
        shape: Shapes of the op's first operands and result, as text.
        count: Number of such ops per step.
        flops, nbytes, seconds: FLOPs, bytes moved in device memory, and duration of one op.
        bound: Bottleneck of the op, from `bound_of`.
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
        """Return the seconds of all such ops in a step."""
        return self.count * self.seconds


@dataclass(frozen=True)
class TransferCost:
    """Cost of the transfers of one kind.

    Attributes:
        where: Region, direction and value of a transfer in a graph, else its purpose, as text.
        kind: Collective, or `send`.
        axis: Mesh axis of the group. ranks: Size of the group.
        link: Slowest link that the group crosses: `WITHIN` or `BETWEEN`.
        nbytes: Bytes that a rank sends per transfer.
        count: Transfers per step.
        seconds: Duration of a transfer.
        exposed: Seconds per transfer in which compute waits for it.
        node: (region, direction, node name) of a transfer in a graph, else None.
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
    """Return the cost of each graph that runs on the timeline's rank, by descending total time."""
    costs = []
    for (region, way), count in _runs(step).items():
        timed, nodes = step.graph_times[region, way], list(ops_in(step.graph(region, way)))
        flops = sum(operation_count(node, step.cost.symbols) for node in nodes)
        moved = sum(traffic(step, node) for node in nodes)
        waits = sum(span.exposed for span in timed.waits)
        costs.append(RegionCost(region, way, count, timed.seconds, waits, flops, moved))
    return sorted(costs, key=lambda cost: -cost.total)


def ops(step: StepTimeline) -> list[OpCost]:
    """Return the cost of each kind and shape of op, by descending time per step."""
    costs: dict[tuple[str, ...], OpCost] = {}
    for (region, way), count in _runs(step).items():
        for span in step.graph_times[region, way].spans:
            if span.lane == COMPUTE:
                node, takes = span.node, span.end - span.begin
                name, shape = op_of(node).name, _shape(step, node)
                flops, moved = operation_count(node, step.cost.symbols), traffic(step, node)
                key = (region, way, name, shape)
                times = count + (costs[key].count if key in costs else 0)
                limit = bound_of(step, flops, moved)
                costs[key] = OpCost(region, way, name, shape, times, flops, moved, takes, limit)
    return sorted(costs.values(), key=lambda cost: -cost.total)


def transfer_costs(step: StepTimeline) -> list[TransferCost]:
    """Return the cost of each kind of transfer on the timeline's rank.

    They are collectives in graphs, then data-parallel transfers and sends between stages.
    """
    costs = []
    device, mesh = step.prediction.setting.device, step.cost.mesh
    for (region, way), count in _runs(step).items():
        for span in step.graph_times[region, way].spans:
            if span.lane != COMPUTE:
                axis = attributes(span.node)["axis"]
                kind = op_of(span.node).name.removesuffix("_start")
                link = link_of(device, mesh[axis], step.cost.strides[axis])
                sent, takes = step.cost.wire_bytes(span.node), span.end - span.begin
                where = f"{region} {way}: {_result(span.node)}"
                numbers = sent, count, takes, span.exposed
                node = region, way, span.node.name
                costs.append(TransferCost(where, kind, axis, mesh[axis], link, *numbers, node))
    return costs + _transfers_between_graphs(step)


def _transfers_between_graphs(step: StepTimeline) -> list[TransferCost]:
    """Return the transfers outside graphs: of data-parallel ranks and pipeline stages."""
    seconds, device = step.prediction.seconds, step.prediction.setting.device
    exposed_seconds = {DATA: seconds.data, PIPELINE: seconds.pipeline}
    groups: dict[tuple[str, Transfer | None], list[Event]] = {}
    for event in step.events:
        if event.lane in exposed_seconds:
            groups.setdefault((event.lane, event.transfer), []).append(event)
    total_seconds = dict.fromkeys(exposed_seconds, 0.0)
    for (lane, transfer), events in groups.items():
        total_seconds[lane] += sum(_seconds(event, transfer) for event in events)
    model, costs = step.model, []
    for (lane, transfer), events in groups.items():
        takes = _seconds(events[0], transfer)
        exposed = (
            takes * min(1.0, exposed_seconds[lane] / total_seconds[lane])
            if total_seconds[lane]
            else 0.0
        )
        if transfer is None:
            stride = model.tp * model.cp * model.data
            where, kind, axis, ranks = "between stages", "send", "pp", model.pp
            sent = events[0].nbytes
        else:
            where = {"gather": "parameters", "reduce": "gradients"}[transfer.purpose]
            kind, axis, ranks, stride = (
                transfer.collective,
                transfer.axis,
                transfer.ranks,
                transfer.stride,
            )
            sent = transfer.nbytes
        link = link_of(device, ranks, stride)
        costs.append(
            TransferCost(where, kind, axis, ranks, link, sent, len(events), takes, exposed)
        )
    return costs


def _seconds(event: Event, transfer: Transfer | None) -> float:
    return transfer.seconds if transfer else event.end - event.begin


def breakdown_json(step: StepTimeline, by_op: bool, collectives: bool) -> dict[str, Any]:
    """Return the JSON values of `plan --ops` and `--collectives`, in bytes, FLOPs and seconds.

    by_op: whether to include regions and ops. collectives: whether to include transfers.
    """
    values: dict[str, Any] = {}
    if by_op:
        values["regions"] = [vars(cost) for cost in regions(step)]
        values["ops"] = [vars(cost) for cost in ops(step)]
    if collectives:
        values["collectives"] = [vars(cost) for cost in transfer_costs(step)]
    return values


def link_of(device: Device, ranks: int, stride: int) -> str:
    """Return the slowest link that a group of ranks uses: WITHIN a node or BETWEEN nodes.

    ranks: size of the group. stride: difference of the global ranks of two of its neighbours.
    """
    return WITHIN if ranks * stride <= device.gpus_per_node else BETWEEN


def _runs(step: StepTimeline) -> Mapping[tuple[str, Any], int]:
    """Return the number of runs per step of each graph."""
    counts: dict[tuple[str, Any], int] = {}
    for event in step.events:
        if event.runs:
            counts[event.name, event.kind] = counts.get((event.name, event.kind), 0) + 1
    return counts


def traffic(step: StepTimeline, node: fx.Node) -> int:
    """Return the bytes that an op reads and writes, each value once; 0 for a view."""
    if op_of(node).cost == "view":
        return 0
    values = {*operands_of(node), *values_of(node)}
    return sum(type_of(value).nbytes(step.cost.symbols) for value in values)


def bound_of(step: StepTimeline, flops: float, nbytes: float) -> str:
    """Return the bottleneck of an op at peak rates: "arithmetic", "memory" or "launch".

    flops: FLOPs of the op. nbytes: bytes that it reads and writes.
    """
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
