"""One step of one rank, laid out in time: every region that runs, and every wait between.

What runs is the Program's; in which order, the pipeline schedule's; how long each term takes in all
is the prediction's, to which the ops' own times are fitted, so that the step ends when it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import fx

from llamac.ir.graph import ops_in
from llamac.ir.program import Program
from llamac.passes.timing import COMPUTE, Span, timeline
from llamac.plan.acts import PIPELINE, Act, Kind
from llamac.plan.clock import DeviceClock
from llamac.plan.data_lane import DataLane
from llamac.plan.order import Direction, Turn, turns, warm_up
from llamac.plan.predict import Prediction, StepModel


@dataclass(frozen=True)
class Played:
    """A graph run once, in seconds from its beginning."""

    spans: tuple[Span, ...]
    seconds: float

    @property
    def waits(self) -> list[Span]:
        return [span for span in self.spans if span.exposed]


class Step:
    """The acts of a step on a pipeline rank; if none is named, on the one that all wait for."""

    def __init__(self, prediction: Prediction, program: Program, rank: int | None = None) -> None:
        self.prediction, self.program = prediction, program
        self.model = StepModel(prediction.setting, program)
        self.micro_batches, self.ranks = self.model.micro_batches, self.model.pp
        self.virtual = prediction.setting.spec.parallel.pipeline_virtual
        self.slowest = max(range(self.ranks), key=self._turn_seconds)
        self.rank = self.slowest if rank is None else rank

    @property
    def clock(self) -> DeviceClock:
        return self.model.clock

    @cached_property
    def seconds(self) -> float:
        return max(act.end for act in self.acts)

    # -- what runs ---------------------------------------------------------------------------------

    def chunk(self, number: int, rank: int | None = None) -> list[tuple[str, int | None]]:
        """The regions of one of a rank's stages, in order, each with its layer's number."""
        rank = self.rank if rank is None else rank
        counts = self.program.stages or (len(self.program.layers),)
        stage = number * self.ranks + rank
        begin = sum(counts[:stage])
        layers = range(begin, begin + counts[stage])
        found: list[tuple[str, int | None]] = [("embed", None)] if stage == 0 else []
        found += [(self.program.layers[layer], layer) for layer in layers]
        return found + ([("head", None)] if stage == len(counts) - 1 else [])

    def _turn_seconds(self, rank: int) -> float:
        """Of one micro-batch, both ways, through all stages of a rank."""
        regions = [name for c in range(self.virtual) for name, _ in self.chunk(c, rank)]
        return sum(self._plain[name, way].seconds for name in regions for way in self.ways(name))

    def ways(self, region: str) -> list[Direction]:
        return ["forward", "backward"] if self.program.regions[region].backward else ["forward"]

    def graph(self, region: str, direction: Direction) -> fx.Graph:
        module = getattr(self.program.regions[region], direction)
        return module.graph

    @cached_property
    def _plain(self) -> dict[tuple[str, Direction], Played]:
        """As the clock has it: every region that is trained."""
        return {
            (name, way): _played(timeline(ops_in(self.graph(name, way)), self.clock).spans)
            for name in dict.fromkeys(("embed", *self.program.layers, "head"))
            for way in self.ways(name)
        }

    @cached_property
    def played(self) -> dict[tuple[str, Direction], Played]:
        """Every region that is trained, fitted to the prediction's compute and tensor seconds."""
        own = [
            self._plain[name, way]
            for number in range(self.virtual)
            for name, _ in self.chunk(number, self.slowest)
            for way in self.ways(name)
        ]
        waited = self.micro_batches * sum(sum(s.exposed for s in one.waits) for one in own)
        busy = self.micro_batches * sum(one.seconds for one in own) - waited
        seconds = self.prediction.seconds
        work, wait = seconds.compute / busy, seconds.tensor / waited if waited else 1.0
        return {key: _stretched(one, work, wait) for key, one in self._plain.items()}

    def run(self, act: Act) -> Played:
        """The graph that runs in an act."""
        return self.played[self.key(act)]

    def key(self, act: Act) -> tuple[str, Direction]:
        assert act.kind in ("forward", "backward"), act
        return act.name, act.kind

    # -- when --------------------------------------------------------------------------------------

    @cached_property
    def acts(self) -> tuple[Act, ...]:
        """Each lane's in order of their beginning."""
        return tuple(_Laying(self).all())


def _played(spans: Sequence[Span]) -> Played:
    ends = [span.end for span in spans if span.lane == COMPUTE or span.exposed]
    return Played(tuple(spans), max(ends, default=0.0))


def _stretched(one: Played, work: float, wait: float) -> Played:
    """Its time stretched: where it works by one factor, where it waits by the other."""
    waits = [(span.end - span.exposed, span.end) for span in one.waits]

    def at(time: float) -> float:
        waited = sum(max(0.0, min(time, end) - begin) for begin, end in waits if begin < time)
        return (time - waited) * work + waited * wait

    spans = [
        replace(span, begin=at(span.begin), end=at(span.end), exposed=span.exposed * wait)
        for span in one.spans
    ]
    return Played(tuple(spans), at(one.seconds))


class _Laying:
    """Puts acts one after the other, as time goes by."""

    def __init__(self, step: Step) -> None:
        self.step, self.now, self.number = step, 0.0, 0
        self.order = turns(step.rank, step.ranks, step.virtual, step.micro_batches)
        self.data, self.idle = DataLane(step, self.order), _idle(step, self.order)

    def all(self) -> Iterator[Act]:
        seconds = self.step.prediction.seconds
        hop, sent = seconds.pipeline / len(self.order), self.step.model.stream_bytes()
        yield from self._pause("bubble", "the pipeline fills", self.idle.begin)
        for number, turn in enumerate(self.order):
            self.number = number
            idle = self.idle.before.get(self.number, 0.0)
            yield from self._pause("bubble", "no gradient yet", idle)
            yield from self._turn(turn)
            if hop:
                yield self._act("send", turn.direction, hop, lane=PIPELINE, nbytes=sent)
            yield from self._pause("wait", "neighbour stage", hop)
        yield from self._pause("bubble", "the pipeline drains", self.idle.end)
        if self.data.last:
            yield self.data.act("reduce", "what is left", self.now, self.data.last, self.number)
        yield from self._pause("wait", "the last gradients", self.data.last)
        yield from self._pause("update", "optimizer", seconds.optimizer)

    def _act(self, kind: Kind, name: str, seconds: float, **about: Any) -> Act:
        return Act(kind, name, self.now, self.now + seconds, turn=self.number, **about)

    def _pause(self, kind: Kind, name: str, seconds: float) -> Iterator[Act]:
        """No region runs for a while."""
        if seconds > 0:
            yield self._act(kind, name, seconds)
            self.now += seconds

    def _turn(self, turn: Turn) -> Iterator[Act]:
        way, step = turn.direction, self.step
        regions = step.chunk(turn.chunk)
        for name, layer in regions if way == "forward" else reversed(regions):
            if (name, way) not in step.played:
                continue
            wait, which = self.data.wait(turn, name), name if layer is None else f"layer {layer}"
            if gather := self.data.gathered(turn, name):
                begin = self.now + wait - gather
                yield self.data.act("gather", which, begin, gather, self.number)
            yield from self._pause("wait", "parameters of data ranks", wait)
            seconds = step.played[name, way].seconds
            yield self._act(way, name, seconds, layer=layer, micro_batch=turn.micro_batch)
            self.now += seconds
            if reduce := self.data.reduced(turn, name):
                yield self.data.act("reduce", which, self.now, reduce, self.number)


@dataclass(frozen=True)
class _Idle:
    """Seconds in which a pipeline rank has nothing to do: first, before which turns, and last."""

    begin: float
    before: Mapping[int, float]
    end: float


def _idle(step: Step, order: Sequence[Turn]) -> _Idle:
    """Where 1F1B leaves the bubble of a rank: until its first input, before its first gradient,
    between the last gradients, and after its own last one."""
    rank, after = step.rank, step.ranks - 1 - step.rank
    forward, backward = (
        sum(step.played[name, way].seconds for name, _ in step.chunk(0) if way in step.ways(name))
        for way in ("forward", "backward")
    )
    ahead = warm_up(rank, step.ranks, step.virtual, step.micro_batches)
    before = {min(ahead + 1, len(order) - 1): after * backward}
    for number in range(len(order) - ahead, len(order)):
        before[number] = before.get(number, 0.0) + after * forward / ahead
    begin, end = rank * forward, rank * backward
    whole = begin + sum(before.values()) + end
    scale = step.prediction.seconds.bubble / whole if whole else 0.0
    return _Idle(begin * scale, {n: t * scale for n, t in before.items()}, end * scale)
