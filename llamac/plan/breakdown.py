"""Where a step's time goes: op by op, region by region, and every transfer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from llamac.ir.graph import attributes, op_of, ops_in, results, type_of
from llamac.ir.types import TensorType
from llamac.ir.values import operands_of, operation_count, values_of
from llamac.passes.timing import COMPUTE
from llamac.plan.acts import DATA, PIPELINE, Act
from llamac.plan.device import Device
from llamac.plan.step import Step

WITHIN, BETWEEN = "within a node", "between nodes"
AXIS = {DATA: "dp_shard", PIPELINE: "pp"}


@dataclass(frozen=True)
class RegionCost:
    """A region's graph on the rank that others wait for. count: runs in a step. seconds: of one,
    waits included; waits: exposed transfers of them. flops, nbytes: of one run, moved in memory."""

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
    """Ops alike: same op, same shapes, one region and direction. count: in a step. seconds, flops,
    nbytes: of one. bound: what keeps it from being faster."""

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
    """Transfers alike. nbytes: that a rank sends in one. ranks, link: of its group. count: in a
    step. seconds: of one, of them exposed: compute stands still."""

    where: str
    kind: str
    axis: str
    ranks: int
    link: str
    nbytes: float
    count: int
    seconds: float
    exposed: float


def regions(step: Step) -> list[RegionCost]:
    """Longest first, over the whole step."""
    found = []
    for (region, way), count in _runs(step).items():
        played, nodes = step.played[region, way], list(ops_in(step.graph(region, way)))
        flops = sum(operation_count(node, step.clock.symbols) for node in nodes)
        moved = sum(_traffic(step, node) for node in nodes)
        waits = sum(span.exposed for span in played.waits)
        found.append(RegionCost(region, way, count, played.seconds, waits, flops, moved))
    return sorted(found, key=lambda one: -one.total)


def ops(step: Step) -> list[OpCost]:
    """All that compute, longest first over the whole step."""
    found: dict[tuple[str, ...], OpCost] = {}
    for (region, way), count in _runs(step).items():
        for span in step.played[region, way].spans:
            if span.lane == COMPUTE:
                node, takes = span.node, span.end - span.begin
                name, shape = op_of(node).name, _shape(step, node)
                flops, moved = operation_count(node, step.clock.symbols), _traffic(step, node)
                key = (region, way, name, shape)
                times = count + (found[key].count if key in found else 0)
                bound = _bound(step, flops, moved)
                found[key] = OpCost(region, way, name, shape, times, flops, moved, takes, bound)
    return sorted(found.values(), key=lambda one: -one.total)


def transfers(step: Step) -> list[TransferCost]:
    """Those of the graphs by region, then those of data ranks and of pipeline stages."""
    found = []
    device, mesh = step.prediction.setting.device, step.clock.mesh
    for (region, way), count in _runs(step).items():
        for span in step.played[region, way].spans:
            if span.lane != COMPUTE:
                axis = attributes(span.node)["axis"]
                kind = op_of(span.node).name.removesuffix("_start")
                link = link_of(device, mesh[axis], step.clock.strides[axis])
                sent, takes = step.clock.wire_bytes(span.node), span.end - span.begin
                where = f"{region} {way}: {_result(span.node)}"
                found.append(
                    TransferCost(
                        where, kind, axis, mesh[axis], link, sent, count, takes, span.exposed
                    )
                )
    return found + _around(step)


def _around(step: Step) -> list[TransferCost]:
    """The transfers of torch's engines, which stand in no graph."""
    alike: dict[tuple[str, str, float], list[Act]] = {}
    for act in step.acts:
        if act.lane in AXIS:
            alike.setdefault((act.lane, act.kind, act.nbytes), []).append(act)
    model, seconds = step.model, step.prediction.seconds
    parallel = step.prediction.setting.spec.parallel
    ranks = {DATA: parallel.data_shard * parallel.data_replicate, PIPELINE: parallel.pipeline}
    if model.sharding == "zero3":
        ranks[DATA] = model.sharers
    strides = {DATA: model.tp, PIPELINE: model.tp * model.cp * model.data}
    waited = {DATA: seconds.data, PIPELINE: seconds.pipeline}
    whole = {lane: sum(a.end - a.begin for a in step.acts if a.lane == lane) for lane in AXIS}
    axes, device = dict(AXIS), step.prediction.setting.device
    if model.sharding == "none" and parallel.data_shard == 1:
        axes[DATA] = "dp_replicate"
    found = []
    for (lane, kind, sent), acts in alike.items():
        takes = sum(act.end - act.begin for act in acts) / len(acts)
        exposed = takes * min(1.0, waited[lane] / whole[lane]) if whole[lane] else 0.0
        link = link_of(device, ranks[lane], strides[lane])
        where = {"gather": "parameters", "reduce": "gradients", "send": "between stages"}[kind]
        kind = {"gather": "all_gather", "reduce": "reduce_scatter", "send": "send"}[kind]
        if kind == "reduce_scatter" and model.sharding == "none":
            kind = "all_reduce"
        one = TransferCost(
            where, kind, axes[lane], ranks[lane], link, sent, len(acts), takes, exposed
        )
        summed = kind == "reduce_scatter" and model.copies > 1 and ranks[lane] > 1
        found += _over_copies(step, one) if summed else [one]
    return found


def _over_copies(step: Step, one: TransferCost) -> list[TransferCost]:
    """A reduction over those who share state, and that of their shards over its copies."""
    model, copies, n = step.model, step.model.copies, one.ranks
    sent = 2 * one.nbytes / (n - 1) * (copies - 1) / copies
    stride = model.tp * n
    seconds = [
        model.clock.collective(one.nbytes, n, model.tp),
        model.clock.collective(sent, copies, stride),
    ]
    shares = [taken / sum(seconds) for taken in seconds]
    link = link_of(step.prediction.setting.device, copies, stride)
    return [
        replace(one, seconds=shares[0] * one.seconds, exposed=shares[0] * one.exposed),
        replace(
            one,
            kind="all_reduce",
            axis="dp_replicate",
            ranks=copies,
            link=link,
            nbytes=sent,
            seconds=shares[1] * one.seconds,
            exposed=shares[1] * one.exposed,
        ),
    ]


def breakdown_json(step: Step, by_op: bool, collectives: bool) -> dict[str, Any]:
    """What `--ops` and `--collectives` add for programs: bytes, FLOPs and seconds."""
    found: dict[str, Any] = {}
    if by_op:
        found["regions"] = [vars(one) for one in regions(step)]
        found["ops"] = [vars(one) for one in ops(step)]
    if collectives:
        found["collectives"] = [vars(one) for one in transfers(step)]
    return found


def link_of(device: Device, ranks: int, stride: int) -> str:
    """Which kind of link the slowest transfer of a group crosses."""
    return WITHIN if ranks * stride <= device.gpus_per_node else BETWEEN


def _runs(step: Step) -> Mapping[tuple[str, Any], int]:
    """How often each graph runs in a step."""
    found: dict[tuple[str, Any], int] = {}
    for act in step.acts:
        if act.runs:
            found[act.name, act.kind] = found.get((act.name, act.kind), 0) + 1
    return found


def _traffic(step: Step, node: fx.Node) -> int:
    """Bytes that an op reads and writes; 0 for a view."""
    if op_of(node).cost == "view":
        return 0
    values = {*operands_of(node), *values_of(node)}
    return sum(type_of(value).nbytes(step.clock.symbols) for value in values)


def _bound(step: Step, flops: float, nbytes: float) -> str:
    device = step.prediction.setting.device
    limits = {
        "arithmetic": flops / device.flops(step.clock.dtype),
        "memory": nbytes / device.memory_bandwidth,
        "launch": device.efficiency.kernel,
    }
    return max(limits, key=lambda limit: limits[limit])


def _shape(step: Step, node: fx.Node) -> str:
    """What an op reads and makes: `[1,2048,8192] [5504,8192] → [1,2048,5504]`."""
    kinds = node.meta["type"]
    made = kinds[0] if isinstance(kinds, tuple) else kinds
    read = " ".join(_sizes(step, type_of(one)) for one in operands_of(node)[:2])
    return f"{read} → {_sizes(step, made)}"


def _sizes(step: Step, kind: TensorType) -> str:
    sizes = (step.clock.symbols[dim] if isinstance(dim, str) else dim for dim in kind.shape)
    return f"[{','.join(map(str, sizes))}]"


def _result(node: fx.Node) -> str:
    value = next((value for value in results(node) if value is not None), node)
    return value.name.removesuffix("_started")
