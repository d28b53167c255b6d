"""Explore the layouts of one model split: bound them, then time them on shared graphs.

Layouts with the same tensor and context parallelism and checkpointing share graphs, which are
compiled once and timed once for each micro-batch size. Candidates whose lower bound exceeds the
k-th best are pruned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llamac.ir.program import Program
from llamac.passes.analysis.peak_memory import Memory, activations, micro_batches_in_flight
from llamac.passes.analysis.timing import TimingModel
from llamac.passes.cut import balance_equal_layers, region_seconds
from llamac.plan.cost.step_model import StepModel
from llamac.plan.search.graph_cache import block_program, with_layout
from llamac.plan.search.layout_enumeration import (
    ModelSplit,
    PipelineSchedule,
    layouts,
    model_splits,
    pipeline_schedules,
)
from llamac.plan.search.lower_bound import least_seconds
from llamac.plan.search.rank_layout import POLICIES, Layout
from llamac.plan.setting import Setting
from llamac.plan.uncertainty import fit_within
from llamac.spec import Spec
from llamac.spec.launch import nodes_are_full
from llamac.spec.validation.errors import divisors

STATE, GATHERED, ACTIVATIONS = "state", "gathered", "activations"
WHY = {
    STATE: "parameters, gradients and optimizer state exceed the memory",
    GATHERED: "state and gathered parameters exceed the memory",
    ACTIVATIONS: "state, gathered parameters and activations exceed the memory",
}
"""Reasons why a layout does not fit, in the order of their checks."""


@dataclass(frozen=True)
class Task:
    """The layouts of one model split.

    bounds: Lower bounds in seconds, by policy. legal: Layouts for each policy.
    """

    setting: Setting
    gpus: int
    shape: ModelSplit
    bounds: Mapping[str, float]
    legal: int

    @property
    def bound(self) -> float:
        return min(self.bounds.values())

    def nodes(self) -> Iterator[tuple[int, PipelineSchedule]]:
        """Yield every micro-batch and schedule."""
        return _nodes(self.setting.spec, self.gpus, self.shape)

    def splits(self, schedule: PipelineSchedule) -> int:
        """Return the number of ways in which data-parallel ranks can shard state."""
        return _splits(self.gpus, self.shape, schedule)


def tasks_of(setting: Setting, gpus: int) -> Iterator[Task]:
    spec = setting.spec
    if any(nodes_are_full(Layout(data_shard=gpus).of(spec).parallel, spec.launch)):
        return
    for shape in model_splits(spec, gpus):
        nodes = _nodes(spec, gpus, shape)
        if legal := sum(_splits(gpus, shape, schedule) for _, schedule in nodes):
            bounds = {policy: least_seconds(setting, gpus, shape, policy) for policy in POLICIES}
            yield Task(setting, gpus, shape, bounds, legal)


def promising(task: Task) -> tuple[float, int, int, bool]:
    """Return a sort key that puts the most promising tasks first, so that more can be pruned.

    Ties between bounds go to few context ranks and to tensor ranks that fill half a node.
    """
    shape, node = task.shape, task.setting.device.gpus_per_node
    return task.bound, shape.context, abs(2 * shape.tensor - node), not shape.sequence


def _nodes(spec: Spec, gpus: int, shape: ModelSplit) -> Iterator[tuple[int, PipelineSchedule]]:
    for micro_batch in divisors(spec.batch.sequences):
        for schedule in pipeline_schedules(spec, gpus // shape.ranks, micro_batch):
            yield micro_batch, schedule


def _splits(gpus: int, shape: ModelSplit, schedule: PipelineSchedule) -> int:
    return len(divisors(gpus // shape.ranks // schedule.pipeline))


@dataclass(frozen=True)
class Explored:
    """Outcome of exploring one model split.

    Attributes:
        best: (seconds of a step, layout), fastest first.
        tally: Number of layouts by outcome: timed, slower, or why they do not fit.
        least: Bytes of the smallest layout that does not fit.
    """

    best: list[tuple[float, Layout]]
    tally: Counter[str]
    least: float


def explore(task: Task, limit: float, keep: int) -> Explored:
    return _Explorer(task, limit, keep).run()


class _Explorer:
    """Explores a model split by checkpointing policy, in order of lower bounds."""

    def __init__(self, task: Task, limit: float, keep: int) -> None:
        self.task, self.limit, self.keep = task, limit, keep
        self.setting, self.spec = task.setting, task.setting.spec
        self.capacity = self.setting.device.memory
        self.best = Best(keep)
        self.tally: Counter[str] = Counter()
        self.least = float("inf")

    def run(self) -> Explored:
        for policy, bound in self.task.bounds.items():
            if bound >= self._limit():
                self.tally["slower"] += self.task.legal
            else:
                self._explore(policy)
        return Explored(self.best.sorted, self.tally, self.least)

    def _limit(self) -> float:
        return min(self.limit, self.best.limit)

    def _explore(self, policy: str) -> None:
        block = block_program(
            self.task.shape.of(self.spec), policy, fused=self.setting.profile.fused
        )
        nodes = sorted(self._nodes(policy, block), key=lambda node: node.bound)
        for node in nodes:
            if node.bound >= min(self._limit(), self.best.like(node.every[0])):
                self.tally["slower"] += node.count
            else:
                self._try_all(node, with_layout(block, node.spec, node.stages))

    def _nodes(self, policy: str, block: Program) -> Iterator[_Node]:
        """Yield schedules whose activations may fit the device."""
        sizes = _Sizes(block, self.spec.model.n_layers)
        nodes = list(self.task.nodes())
        for micro_batch in dict.fromkeys(size for size, _ in nodes):
            model, fits = None, False
            for schedule in (schedule for size, schedule in nodes if size == micro_batch):
                every = self._every(policy, micro_batch, schedule)
                node = _Node(0.0, every, sizes.stages(schedule), self.spec)
                saved = sizes.saved_bytes(node.stages, schedule) * micro_batch
                if saved > self.capacity:
                    self.tally[ACTIVATIONS] += node.count
                    continue
                if model is None:
                    whole = with_layout(block, node.spec, [self.spec.model.n_layers])
                    model = StepModel(replace(self.setting, spec=node.spec), whole)
                fits = True
                yield replace(node, bound=_pipelined(model, schedule))
            if not fits:  # larger micro-batches keep more
                rest = [one for size, one in nodes if size > micro_batch]
                self.tally[ACTIVATIONS] += sum(map(self.task.splits, rest))
                return

    def _every(
        self, policy: str, micro_batch: int, schedule: PipelineSchedule
    ) -> tuple[Layout, ...]:
        return layouts(self.task.gpus, self.task.shape, policy, micro_batch, schedule)

    def _try_all(self, node: _Node, program: Program) -> None:
        """Try layouts that differ in the number of ranks that shard state, most first."""
        model = self._model(node.every[0], program)
        first = model.seconds()
        without = first.total - first.data - first.optimizer  # which is the same for all of them
        without += model.accumulation_seconds  # which is longer where state is not sharded
        reason = None
        for layout in node.every:
            shared = layout.data_shard * layout.context > 1
            if without >= min(self._limit(), self.best.like(layout)):
                self.tally["slower"] += 1
            elif reason and shared:  # fewer that share need more; where none does none is gathered
                self.tally[reason] += 1
            else:
                reason = self._try(layout, program)

    def _model(self, layout: Layout, program: Program) -> StepModel:
        return StepModel(replace(self.setting, spec=layout.of(self.spec)), program)

    def _try(self, layout: Layout, program: Program) -> str | None:
        """Return why a layout does not fit the device, or None if it does."""
        model = self._model(layout, program)
        memory = model.memory()
        if fit_within(memory.total, self.capacity) == "no":
            self.least = min(self.least, memory.total)
            reason = _reason(memory, self.capacity)
            self.tally[reason] += 1
            return reason
        self.tally["timed"] += 1
        self.best.add(model.seconds().total, layout)
        return None


@dataclass(frozen=True)
class _Node:
    """Layouts that differ only in how state is sharded.

    bound: Lower bound in seconds. stages: Layers of each stage.
    """

    bound: float
    every: tuple[Layout, ...]
    stages: tuple[int, ...]
    base: Spec

    @property
    def count(self) -> int:
        return len(self.every)

    @property
    def spec(self) -> Spec:
        return self.every[0].of(self.base)


def _pipelined(model: StepModel, schedule: PipelineSchedule) -> float:
    """Return a lower bound on the seconds in which all micro-batches pass through all layers.

    At least one rank has the mean of the work, and the first and last micro-batch pass the other
    ranks alone.
    """
    layer = model.times[model.program.layers[0]].seconds
    ends = model.times["embed"].seconds + model.times["head"].seconds
    whole = layer * len(model.program.layers) + ends
    mean = whole / schedule.pipeline
    return schedule.micro_batches * mean + (whole - mean) / schedule.virtual


class Best:
    """The fastest layouts, one of each kind. limit: seconds that another kind must beat."""

    def __init__(self, keep: int) -> None:
        self.keep, self.limit = keep, float("inf")
        self.kinds: dict[Layout, tuple[float, Layout]] = {}

    def add(self, seconds: float, layout: Layout) -> None:
        kind, own = layout.kind, (seconds, layout)
        if seconds < self.limit and (kind not in self.kinds or own < self.kinds[kind]):
            self.kinds[kind] = own
            if len(self.kinds) >= self.keep:
                self.limit = self.sorted[-1][0]

    def like(self, layout: Layout) -> float:
        """Return the seconds of the best known layout of the same kind."""
        return self.kinds.get(layout.kind, (float("inf"),))[0]

    @property
    def sorted(self) -> list[tuple[float, Layout]]:
        return sorted(self.kinds.values())[: self.keep]


class _Sizes:
    """Estimates from a block's graphs: how layers are cut into stages, and what the stages keep."""

    def __init__(self, program: Program, layers: int) -> None:
        self.layers = layers
        cost = TimingModel(program.symbols, program.mesh)
        seconds = {name: region_seconds(one, cost) for name, one in program.regions.items()}
        self.each, self.ends = seconds[program.layers[0]], (seconds["embed"], seconds["head"])
        self.layer = activations(program).saved[program.layers[0]]
        self.cuts: dict[int, tuple[int, ...]] = {}

    def stages(self, schedule: PipelineSchedule) -> tuple[int, ...]:
        count = schedule.pipeline * schedule.virtual
        if count not in self.cuts:
            self.cuts[count] = balance_equal_layers(self.each, self.layers, count, *self.ends)
        return self.cuts[count]

    def saved_bytes(self, stages: Sequence[int], schedule: PipelineSchedule) -> float:
        """Return a lower bound of bytes that the first pipeline rank saves, at micro-batch 1."""
        in_flight = 1.0
        if schedule.pipeline > 1:
            in_flight = micro_batches_in_flight(
                0, schedule.pipeline, schedule.virtual, schedule.micro_batches
            )
        return self.layer * sum(stages[:: schedule.pipeline]) * in_flight


def _reason(memory: Memory, capacity: float) -> str:
    state = memory.parameters + memory.gradients + memory.optimizer
    if state > capacity:
        return STATE
    return GATHERED if state + memory.communication > capacity else ACTIVATIONS
