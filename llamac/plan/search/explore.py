"""Explore the layouts of one model split by branch and bound, with shared graphs.

Layouts with the same tensor and context parallelism and checkpointing share graphs, which are
compiled once and timed once per micro-batch size. Candidates whose lower bound exceeds the k-th
best time are pruned.
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
    micro_batch_schedules,
    model_splits,
)
from llamac.plan.search.lower_bound import lower_bound_seconds
from llamac.plan.search.rank_layout import POLICIES, Layout
from llamac.plan.setting import Setting
from llamac.plan.uncertainty import fit_within
from llamac.spec import Spec
from llamac.spec.launch import nodes_are_full
from llamac.spec.validation.errors import divisors

STATE, GATHERED, ACTIVATIONS = "state", "gathered", "activations"
UNFIT_REASONS = {
    STATE: "parameters, gradients and optimizer state exceed the memory",
    GATHERED: "state and gathered parameters exceed the memory",
    ACTIVATIONS: "state, gathered parameters and activations exceed the memory",
}
"""Descriptions of the reasons why layouts do not fit the device, by key, in order of the checks."""


@dataclass(frozen=True)
class Task:
    """Layouts of one model split, to be explored.

    Attributes:
        shape: Degrees of tensor and context parallelism of all layouts.
        bounds: Lower bounds on the seconds of a step, by checkpointing policy.
        legal: Number of legal layouts per policy.
    """

    setting: Setting
    gpus: int
    shape: ModelSplit
    bounds: Mapping[str, float]
    legal: int

    @property
    def bound(self) -> float:
        """Return the lower bound on a step under any checkpointing policy, in seconds."""
        return min(self.bounds.values())

    def micro_batch_schedules(self) -> Iterator[tuple[int, PipelineSchedule]]:
        """Yield every (sequences per micro-batch, pipeline schedule) that this split allows."""
        return micro_batch_schedules(self.setting.spec, self.gpus, self.shape)

    def splits(self, schedule: PipelineSchedule) -> int:
        """Return the number of ways to shard state over a schedule's data-parallel ranks."""
        return _splits(self.gpus, self.shape, schedule)


def tasks_of(setting: Setting, gpus: int) -> Iterator[Task]:
    """Yield a task for each model split that the spec allows on `gpus` GPUs.

    There is none if `launch.gpus_per_node` does not divide the GPUs of several nodes.
    """
    spec = setting.spec
    if any(nodes_are_full(Layout(data_shard=gpus).apply_to(spec).parallel, spec.launch)):
        return
    for shape in model_splits(spec, gpus):
        pairs = micro_batch_schedules(spec, gpus, shape)
        if legal := sum(_splits(gpus, shape, schedule) for _, schedule in pairs):
            bounds = {
                policy: lower_bound_seconds(setting, gpus, shape, policy) for policy in POLICIES
            }
            yield Task(setting, gpus, shape, bounds, legal)


def task_priority(task: Task) -> tuple[float, int, int, bool]:
    """Return a sort key by which the most promising tasks come first, so that more are pruned.

    It is the bound, then few context ranks, then tensor ranks that fill half a node.
    """
    shape, node = task.shape, task.setting.device.gpus_per_node
    return task.bound, shape.context, abs(2 * shape.tensor - node), not shape.sequence


def _splits(gpus: int, shape: ModelSplit, schedule: PipelineSchedule) -> int:
    return len(divisors(gpus // shape.ranks // schedule.pipeline))


@dataclass(frozen=True)
class ExplorationResult:
    """Result of exploring one model split.

    Attributes:
        best: (seconds of a step, layout) of the fastest layouts that fit, fastest first.
        tally: Number of layouts by outcome: "timed", "slower", or a key of `UNFIT_REASONS`.
        min_bytes: Smallest predicted memory of a layout that does not fit; inf if none was
            predicted.
    """

    best: list[tuple[float, Layout]]
    tally: Counter[str]
    min_bytes: float


def explore(task: Task, limit: float, keep: int) -> ExplorationResult:
    """Find the fastest layouts of one model split that fit the device.

    limit: seconds of a step that a layout must beat. keep: maximum number of layouts to return.
    """
    return _Explorer(task, limit, keep).run()


class _Explorer:
    """Explorer of a model split, one checkpointing policy after another."""

    def __init__(self, task: Task, limit: float, keep: int) -> None:
        self.task, self.limit, self.keep = task, limit, keep
        self.setting, self.spec = task.setting, task.setting.spec
        self.capacity = self.setting.device.memory
        self.best = BestLayouts(keep)
        self.tally: Counter[str] = Counter()
        self.min_bytes = float("inf")

    def run(self) -> ExplorationResult:
        for policy, bound in self.task.bounds.items():
            if bound >= self._limit():
                self.tally["slower"] += self.task.legal
            else:
                self._explore(policy)
        return ExplorationResult(self.best.sorted, self.tally, self.min_bytes)

    def _limit(self) -> float:
        return min(self.limit, self.best.limit)

    def _explore(self, policy: str) -> None:
        block = block_program(
            self.task.shape.apply_to(self.spec), policy, fused=self.setting.profile.fused
        )
        nodes = sorted(self._nodes(policy, block), key=lambda node: node.bound)
        for node in nodes:
            if node.bound >= min(self._limit(), self.best.best_of_kind(node.layouts[0])):
                self.tally["slower"] += node.count
            else:
                self._try_all(node, with_layout(block, node.spec, node.stages))

    def _nodes(self, policy: str, block: Program) -> Iterator[_Node]:
        """Yield schedules whose activations may fit the device."""
        sizes = _Sizes(block, self.spec.model.n_layers)
        pairs = list(self.task.micro_batch_schedules())
        for micro_batch in dict.fromkeys(size for size, _ in pairs):
            model, fits = None, False
            for schedule in (schedule for size, schedule in pairs if size == micro_batch):
                all_layouts = self._layouts(policy, micro_batch, schedule)
                node = _Node(0.0, all_layouts, sizes.stages(schedule), self.spec)
                saved = sizes.saved_bytes(node.stages, schedule) * micro_batch
                if saved > self.capacity:
                    self.tally[ACTIVATIONS] += node.count
                    continue
                if model is None:
                    whole = with_layout(block, node.spec, [self.spec.model.n_layers])
                    model = StepModel(replace(self.setting, spec=node.spec), whole)
                fits = True
                yield replace(node, bound=_pipeline_bound(model, schedule))
            if not fits:  # larger micro-batches keep more
                rest = [one for size, one in pairs if size > micro_batch]
                self.tally[ACTIVATIONS] += sum(map(self.task.splits, rest))
                return

    def _layouts(
        self, policy: str, micro_batch: int, schedule: PipelineSchedule
    ) -> tuple[Layout, ...]:
        return layouts(self.task.gpus, self.task.shape, policy, micro_batch, schedule)

    def _try_all(self, node: _Node, program: Program) -> None:
        """Try layouts that differ in the number of ranks that shard state, most ranks first."""
        model = self._model(node.layouts[0], program)
        first = model.seconds()
        other_seconds = (
            first.total - first.data - first.optimizer
        )  # which is the same for all of them
        other_seconds += model.accumulation_seconds  # which is longer where state is not sharded
        reason = None
        for layout in node.layouts:
            shared = layout.data_shard * layout.context > 1
            if other_seconds >= min(self._limit(), self.best.best_of_kind(layout)):
                self.tally["slower"] += 1
            elif reason and shared:  # fewer ranks that share state need more memory
                self.tally[reason] += 1
            else:
                reason = self._try(layout, program)

    def _model(self, layout: Layout, program: Program) -> StepModel:
        return StepModel(replace(self.setting, spec=layout.apply_to(self.spec)), program)

    def _try(self, layout: Layout, program: Program) -> str | None:
        """Return why a layout does not fit the device, or None if it does."""
        model = self._model(layout, program)
        memory = model.memory()
        if fit_within(memory.total, self.capacity) == "no":
            self.min_bytes = min(self.min_bytes, memory.total)
            reason = _reason(memory, self.capacity)
            self.tally[reason] += 1
            return reason
        self.tally["timed"] += 1
        self.best.add(model.seconds().total, layout)
        return None


@dataclass(frozen=True)
class _Node:
    """Layouts that differ only in how state is sharded.

    bound: Lower bound on the seconds of a step. stages: Number of layers of each stage.
    """

    bound: float
    layouts: tuple[Layout, ...]
    stages: tuple[int, ...]
    base: Spec

    @property
    def count(self) -> int:
        return len(self.layouts)

    @property
    def spec(self) -> Spec:
        return self.layouts[0].apply_to(self.base)


def _pipeline_bound(model: StepModel, schedule: PipelineSchedule) -> float:
    """Return a lower bound on the seconds of a step under a pipeline schedule.

    At least one rank has the mean work per micro-batch; while the pipeline fills and drains, it
    waits for the others' work on one micro-batch.
    """
    layer = model.times[model.program.layers[0]].seconds
    ends = model.times["embed"].seconds + model.times["head"].seconds
    total = layer * len(model.program.layers) + ends
    mean = total / schedule.pipeline
    return schedule.micro_batches * mean + (total - mean) / schedule.virtual


class BestLayouts:
    """The `keep` fastest of the added layouts, at most one of each kind (`Layout.kind`).

    limit: seconds of a step that a layout must beat to be added; inf while there are fewer.
    """

    def __init__(self, keep: int) -> None:
        self.keep, self.limit = keep, float("inf")
        self.kinds: dict[Layout, tuple[float, Layout]] = {}

    def add(self, seconds: float, layout: Layout) -> None:
        """Add a layout if it is among the fastest. seconds: duration of a step."""
        kind, entry = layout.kind, (seconds, layout)
        if seconds < self.limit and (kind not in self.kinds or entry < self.kinds[kind]):
            self.kinds[kind] = entry
            if len(self.kinds) >= self.keep:
                self.limit = self.sorted[-1][0]

    def best_of_kind(self, layout: Layout) -> float:
        """Return the seconds of the fastest added layout of the same kind; inf if there is none."""
        return self.kinds.get(layout.kind, (float("inf"),))[0]

    @property
    def sorted(self) -> list[tuple[float, Layout]]:
        """Return (seconds of a step, layout) of at most `keep` layouts, fastest first."""
        return sorted(self.kinds.values())[: self.keep]


class _Sizes:
    """Estimates from a block's graphs: layers of each stage, and bytes that stages save."""

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
        """Return a lower bound of the bytes that the first pipeline rank saves per sequence."""
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
