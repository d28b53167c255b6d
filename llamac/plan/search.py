"""The fastest layouts of a run on so many GPUs: all legal ones, best first, out of the Program.

Layouts that share tensor ranks, context ranks and checkpointing share graphs, compiled once; they
are timed once for each micro-batch, and the rest is numbers. What cannot come among the best is
left early: a bound on its time from arithmetic and from bytes on the wire, or on the time its
pipeline takes, is already more than theirs. What is told of the best is compiled as `build` does.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from typing import Any

from llamac.ir.program import Program
from llamac.passes.cut import seconds_of, spread
from llamac.passes.footprint import Memory, activations, in_flight
from llamac.passes.timing import Clock
from llamac.plan.blocks import block_program, laid_out
from llamac.plan.bounds import least_seconds
from llamac.plan.layouts import (
    POLICIES,
    Layout,
    Schedule,
    Shape,
    divisors,
    layouts,
    schedules,
    shapes,
)
from llamac.plan.predict import Prediction, Setting, StepModel, predict
from llamac.plan.target import LayoutError
from llamac.spec import Spec
from llamac.spec.errors import either
from llamac.spec.launch import nodes_are_full

STATE, GATHERED, KEPT = "state", "gathered", "activations"
WHY = {
    STATE: "parameters, gradients and optimizer state are too large",
    GATHERED: "gathered parameters and gradients on their way are too much besides",
    KEPT: "activations are too much besides",
}
"""Why a layout does not fit, in the order in which reasons are looked for."""

WAVE = 4  # tasks whose results are put together before the next ones start
SPARE = 4  # layouts beyond those asked for that are compiled, for the order among them may change


@dataclass(frozen=True)
class Ranked:
    """A layout and what it is predicted to do, compiled as it would be run."""

    layout: Layout
    prediction: Prediction


@dataclass(frozen=True)
class Search:
    """best: fastest first, of each kind (`Layout.kind`) one. legal: how many layouts there are;
    unfit: how many were found not to fit, by reason; slower: how many were left, for a bound says
    that they are slower than the best; timed: how many fit and were timed."""

    setting: Setting
    gpus: int
    best: tuple[Ranked, ...]
    legal: int
    unfit: Counter[str]
    slower: int
    timed: int


def search(setting: Setting, gpus: int, top: int = 10, workers: int | None = None) -> Search:
    """The `top` fastest layouts of a setting's spec that fit its device. workers: processes;
    default: one for each core. Raises LayoutError where no layout is legal, or none fits."""
    tasks = sorted(_tasks(setting, gpus), key=_promising)
    if not tasks:
        raise LayoutError(_impossible(setting, gpus))
    legal = len(POLICIES) * sum(task.legal for task in tasks)
    best, tally, least = _Best(top + SPARE), Counter[str](), float("inf")
    with _each(workers or len(os.sched_getaffinity(0))) as each:
        while wave := [task for task in tasks[:WAVE] if task.bound < best.limit]:
            tasks = tasks[len(wave) :]
            for one in each(_explore, [(task, best.limit, best.keep) for task in wave]):
                for seconds, layout in one.best:
                    best.add(seconds, layout)
                tally += one.tally
                least = min(least, one.least)
        tally["slower"] += len(POLICIES) * sum(task.legal for task in tasks)
        given = [(setting, layout) for _, layout in best.sorted]
        exact = [one for one in each(_compiled, given) if one.prediction.fits]
    if not exact:
        raise LayoutError(_nothing_fits(setting, gpus, tally, least))
    exact.sort(key=lambda one: (one.prediction.seconds.total, one.layout))
    return Search(
        setting,
        gpus,
        tuple(exact[:top]),
        legal=legal,
        unfit=Counter({reason: tally[reason] for reason in WHY}),
        slower=tally["slower"],
        timed=tally["timed"],
    )


# -- what there is to try --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """Layouts of one shape. bounds: by policy, seconds that none of them is faster than. legal: how
    many there are for each policy."""

    setting: Setting
    gpus: int
    shape: Shape
    bounds: Mapping[str, float]
    legal: int

    @property
    def bound(self) -> float:
        return min(self.bounds.values())

    def nodes(self) -> Iterator[tuple[int, Schedule]]:
        """Every micro-batch and schedule."""
        return _nodes(self.setting.spec, self.gpus, self.shape)

    def splits(self, schedule: Schedule) -> int:
        """In how many ways data ranks can share state."""
        return _splits(self.gpus, self.shape, schedule)


def _tasks(setting: Setting, gpus: int) -> Iterator[_Task]:
    spec = setting.spec
    if any(nodes_are_full(Layout(data_shard=gpus).of(spec).parallel, spec.launch)):
        return
    for shape in shapes(spec, gpus):
        nodes = _nodes(spec, gpus, shape)
        if legal := sum(_splits(gpus, shape, schedule) for _, schedule in nodes):
            bounds = {policy: least_seconds(setting, gpus, shape, policy) for policy in POLICIES}
            yield _Task(setting, gpus, shape, bounds, legal)


def _promising(task: _Task) -> tuple[float, int, int, bool]:
    """Best first: of equal bounds, few context ranks, and tensor ranks that fill half a node; what
    is good early leaves more of the rest untried."""
    shape, node = task.shape, task.setting.device.gpus_per_node
    return task.bound, shape.context, abs(2 * shape.tensor - node), not shape.sequence


def _nodes(spec: Spec, gpus: int, shape: Shape) -> Iterator[tuple[int, Schedule]]:
    for micro_batch in divisors(spec.batch.sequences):
        for schedule in schedules(spec, gpus // shape.ranks, micro_batch):
            yield micro_batch, schedule


def _splits(gpus: int, shape: Shape, schedule: Schedule) -> int:
    return len(divisors(gpus // shape.ranks // schedule.pipeline))


# -- trying them -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Explored:
    """least: bytes of the smallest layout that was found not to fit."""

    best: list[tuple[float, Layout]]
    tally: Counter[str]
    least: float


def _explore(task: _Task, limit: float, keep: int) -> _Explored:
    return _Explorer(task, limit, keep).run()


class _Explorer:
    """Goes through the layouts of a shape, policy by policy, the lowest bounds first."""

    def __init__(self, task: _Task, limit: float, keep: int) -> None:
        self.task, self.limit, self.keep = task, limit, keep
        self.setting, self.spec = task.setting, task.setting.spec
        self.capacity = self.setting.device.memory
        self.best = _Best(keep)
        self.tally: Counter[str] = Counter()
        self.least = float("inf")

    def run(self) -> _Explored:
        for policy, bound in self.task.bounds.items():
            if bound >= self._limit():
                self.tally["slower"] += self.task.legal
            else:
                self._explore(policy)
        return _Explored(self.best.sorted, self.tally, self.least)

    def _limit(self) -> float:
        return min(self.limit, self.best.limit)

    def _explore(self, policy: str) -> None:
        block = block_program(self.task.shape.of(self.spec), policy, fused=self.setting.style.fused)
        nodes = sorted(self._nodes(policy, block), key=lambda node: node.bound)
        for node in nodes:
            if node.bound >= min(self._limit(), self.best.like(node.every[0])):
                self.tally["slower"] += node.count
            else:
                self._try_all(node, laid_out(block, node.spec, node.stages))

    def _nodes(self, policy: str, block: Program) -> Iterator[_Node]:
        """Schedules whose activations may fit."""
        sizes = _Sizes(block, self.spec.model.n_layers)
        nodes = list(self.task.nodes())
        for micro_batch in dict.fromkeys(size for size, _ in nodes):
            model, fits = None, False
            for schedule in (schedule for size, schedule in nodes if size == micro_batch):
                every = self._every(policy, micro_batch, schedule)
                node = _Node(0.0, every, sizes.stages(schedule), self.spec)
                kept = sizes.kept(node.stages, schedule) * micro_batch
                if kept > self.capacity:
                    self.least = min(self.least, kept)
                    self.tally[KEPT] += node.count
                    continue
                if model is None:
                    whole = laid_out(block, node.spec, [self.spec.model.n_layers])
                    model = StepModel(replace(self.setting, spec=node.spec), whole)
                fits = True
                yield replace(node, bound=_pipelined(model, schedule))
            if not fits:  # larger micro-batches keep more
                rest = [one for size, one in nodes if size > micro_batch]
                self.tally[KEPT] += sum(map(self.task.splits, rest))
                return

    def _every(self, policy: str, micro_batch: int, schedule: Schedule) -> tuple[Layout, ...]:
        return layouts(self.task.gpus, self.task.shape, policy, micro_batch, schedule)

    def _try_all(self, node: _Node, program: Program) -> None:
        """Layouts that differ in how many ranks share state, most first."""
        first = self._model(node.every[0], program).seconds()
        without = first.total - first.data - first.optimizer  # which is the same for all of them
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
        """Why it does not fit, if it does not."""
        model = self._model(layout, program)
        memory = model.memory()
        if memory.total > self.capacity:
            self.least = min(self.least, memory.total)
            reason = _reason(memory, self.capacity)
            self.tally[reason] += 1
            return reason
        self.tally["timed"] += 1
        self.best.add(model.seconds().total, layout)
        return None


@dataclass(frozen=True)
class _Node:
    """Layouts that differ in who shares state. bound: seconds that none is faster than. stages:
    how many layers each has."""

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


def _pipelined(model: StepModel, schedule: Schedule) -> float:
    """Seconds in which every micro-batch has gone through all layers: one rank at least has the
    mean of the work, and the first and the last micro-batch pass the others alone."""
    layer = model.passes[model.program.layers[0]].seconds
    ends = model.passes["embed"].seconds + model.passes["head"].seconds
    whole = layer * len(model.program.layers) + ends
    mean = whole / schedule.pipeline
    return schedule.micro_batches * mean + (whole - mean) / schedule.virtual


class _Best:
    """The fastest layouts, one of each kind; limit: what a further kind must be faster than."""

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
        """Seconds of the best that is known of its kind."""
        return self.kinds.get(layout.kind, (float("inf"),))[0]

    @property
    def sorted(self) -> list[tuple[float, Layout]]:
        return sorted(self.kinds.values())[: self.keep]


class _Sizes:
    """Of a block's graphs, by estimate: how layers are cut into stages, and what these keep."""

    def __init__(self, program: Program, layers: int) -> None:
        self.layers = layers
        clock = Clock(program.symbols, program.mesh)
        seconds = {name: seconds_of(one, clock) for name, one in program.regions.items()}
        self.each, self.ends = seconds[program.layers[0]], (seconds["embed"], seconds["head"])
        self.layer = activations(program).kept[program.layers[0]]
        self.cuts: dict[int, tuple[int, ...]] = {}

    def stages(self, schedule: Schedule) -> tuple[int, ...]:
        count = schedule.pipeline * schedule.virtual
        if count not in self.cuts:
            self.cuts[count] = spread(self.each, self.layers, count, *self.ends)
        return self.cuts[count]

    def kept(self, stages: Sequence[int], schedule: Schedule) -> float:
        """Bytes that the first pipeline rank keeps at least, if micro-batches are one sequence."""
        flying = 1.0
        if schedule.pipeline > 1:
            flying = in_flight(0, schedule.pipeline, schedule.virtual, schedule.micro_batches)
        return self.layer * sum(stages[:: schedule.pipeline]) * flying


def _reason(memory: Memory, capacity: float) -> str:
    state = memory.parameters + memory.gradients + memory.optimizer
    if state > capacity:
        return STATE
    return GATHERED if state + memory.communication > capacity else KEPT


def _compiled(setting: Setting, layout: Layout) -> Ranked:
    """As `llamac plan` would tell it."""
    spec = setting.spec.replace(layout.changes(setting.spec))
    return Ranked(layout, predict(replace(setting, spec=spec)))


# -- processes -------------------------------------------------------------------------------------


@contextmanager
def _each(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map` over argument tuples, results in order: in forked processes, which have torch already;
    with one worker, or where processes cannot fork, in this one."""
    gc.freeze()  # torch's million objects need not be looked at whenever graphs come and go
    try:
        if workers < 2 or not hasattr(os, "fork"):
            yield lambda function, given: [function(*one) for one in given]
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            yield lambda function, given: pool.map(function, *zip(*given, strict=True))
    finally:
        gc.unfreeze()


# -- nothing found ---------------------------------------------------------------------------------


def _impossible(setting: Setting, gpus: int) -> str:
    below = (n for n in range(gpus - 1, 0, -1) if next(_tasks(setting, n), None))
    above = (n for n in range(gpus + 1, 4 * gpus + 64) if next(_tasks(setting, n), None))
    near = [*islice(below, 1), *islice(above, 1)]
    return (
        f"{setting.spec.name} has no layout on {gpus:,} GPUs: heads, layers and positions do not "
        f"divide over them, nor does a step of {setting.spec.batch.sequences:,} sequences; "
        f"{either(near)} GPUs would do"
    )


def _nothing_fits(setting: Setting, gpus: int, tally: Counter[str], least: float) -> str:
    device = setting.device
    reasons = ", ".join(f"{WHY[key]} in {tally[key]:,}" for key in WHY if tally[key])
    return (
        f"no layout of {setting.spec.name} on {gpus:,} GPU{'s' * (gpus > 1)} fits the "
        f"{device.memory / 1e9:.1f} GB of {device.title}: {reasons}; the smallest takes "
        f"{least / 1e9:,.1f} GB. More GPUs (--gpus), a device with more memory (--device), "
        "shorter sequences (--set batch.sequence_length=…) or a smaller model are the ways out"
    )
