"""Timeline of a step on one pipeline rank.

Durations of regions are from `region_time`, data-parallel waits from `DataParallel`, and bubbles
from the other ranks' passes, so the slowest rank's step equals the prediction term by term. Other
ranks wait longer for their neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx

from llamac.ir.program import Program
from llamac.plan.cost.data_parallel import Direction, Transfer, total_seconds
from llamac.plan.cost.device_cost import DeviceCost
from llamac.plan.cost.region_time import GraphTime, graph_time
from llamac.plan.cost.step_model import StepModel
from llamac.plan.prediction import Prediction
from llamac.plan.timeline.pipeline_order import Turn, turns, warm_up
from llamac.plan.timeline.step_events import DATA, PIPELINE, Event, Kind


class StepTimeline:
    """Timeline of a step on a pipeline rank.

    Args:
        program: The prediction's compiled spec.
        rank: Index of the pipeline rank; None means the slowest one.

    Attributes:
        ranks: Number of pipeline ranks. virtual: Stages per pipeline rank.
        micro_batches: Micro-batches per data-parallel rank and step.
    """

    def __init__(self, prediction: Prediction, program: Program, rank: int | None = None) -> None:
        self.prediction, self.program = prediction, program
        self.model = StepModel(prediction.setting, program)
        self.micro_batches, self.ranks = self.model.micro_batches, self.model.pp
        self.virtual = prediction.setting.spec.parallel.pipeline_virtual
        self.rank = self.model.slowest if rank is None else rank

    @property
    def cost(self) -> DeviceCost:
        """Return the timing model of the step's ops."""
        return self.model.cost

    @cached_property
    def seconds(self) -> float:
        """Return the duration of the step on this rank in seconds."""
        return max(event.end for event in self.events)

    # -- regions -----------------------------------------------------------------------------------

    def chunk(self, number: int) -> list[tuple[str, int | None]]:
        """Return the (region, layer number) pairs of one of this rank's stages, in order.

        number: index of the stage on this rank, 0 unless pipeline_virtual > 1. The layer number is
        None for embed and head.
        """
        counts = self.program.stages or (len(self.program.layers),)
        stage = number * self.ranks + self.rank
        begin = sum(counts[:stage])
        layers = range(begin, begin + counts[stage])
        regions: list[tuple[str, int | None]] = [("embed", None)] if stage == 0 else []
        regions += [(self.program.layers[layer], layer) for layer in layers]
        return regions + ([("head", None)] if stage == len(counts) - 1 else [])

    def graph(self, region: str, direction: Direction) -> fx.Graph:
        """Return the forward or backward graph of a region, by its name."""
        module = getattr(self.program.regions[region], direction)
        return module.graph

    @cached_property
    def graph_times(self) -> dict[tuple[str, Direction], GraphTime]:
        """Return the simulated time of each graph that training runs, by (region, direction)."""
        times: dict[tuple[str, Direction], GraphTime] = {}
        for name in dict.fromkeys(("embed", *self.program.layers, "head")):
            region = self.program.regions[name]
            times[name, "forward"] = graph_time(region.forward, self.cost)
            if region.backward is not None:
                times[name, "backward"] = graph_time(region.backward, self.cost)
        return times

    def run(self, event: Event) -> GraphTime:
        """Return the time of the graph that runs in a forward or backward event."""
        return self.graph_times[self.key(event)]

    def key(self, event: Event) -> tuple[str, Direction]:
        """Return the key in `graph_times` of a forward or backward event: (region, direction)."""
        assert event.kind in ("forward", "backward"), event
        return event.name, event.kind

    # -- when --------------------------------------------------------------------------------------

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """Return the computations, transfers and waits of this rank in one step.

        Events of one lane are in chronological order.
        """
        return tuple(_EventLayout(self).all())


class _EventLayout:
    """Places events one after the other on their lanes."""

    def __init__(self, step: StepTimeline) -> None:
        self.step, self.now, self.number = step, 0.0, 0
        self.order = turns(step.rank, step.ranks, step.virtual, step.micro_batches)
        self.data = step.model.data_parallel(step.rank)
        self.free = 0.0  # when the data lane is done with its last transfer
        self.idle = _idle(step, self.order)
        self.layers = sum(
            layer is not None for c in range(step.virtual) for _, layer in step.chunk(c)
        )

    def all(self) -> Iterator[Event]:
        seconds, order = self.step.prediction.seconds, self.order
        sent = self.step.model.stream_bytes()
        hop = seconds.pipeline / len(order)
        pause = hop + self._slack() / len(order)
        yield from self._pause("bubble", "the pipeline fills", self.idle.begin)
        for number, turn in enumerate(order):
            self.number = number
            idle = self.idle.before.get(self.number, 0.0)
            yield from self._pause("bubble", "no gradient yet", idle)
            yield from self._turn(turn)
            if hop:
                yield self._event("send", turn.direction, hop, lane=PIPELINE, nbytes=sent)
            yield from self._pause("wait", "neighbour stage", pause)
        yield from self._pause("bubble", "the pipeline drains", self.idle.end)
        yield from self._end()
        yield from self._pause("update", "optimizer", seconds.optimizer)

    def _slack(self) -> float:
        """Return the seconds per step that a rank waits for slower ones, excluding its bubble."""
        model, seconds = self.step.model, self.step.prediction.seconds
        forward, backward, _ = model.turns[self.step.rank]
        busy = model.micro_batches * (forward + backward) + self.idle.total
        busy += self.data.exposed(model.layer_seconds(self.step.rank))
        busy += seconds.pipeline + seconds.optimizer
        return max(0.0, seconds.total - busy) if self.step.rank != model.slowest else 0.0

    def _event(self, kind: Kind, name: str, seconds: float, **fields: Any) -> Event:
        return Event(kind, name, self.now, self.now + seconds, turn=self.number, **fields)

    def _pause(self, kind: Kind, name: str, seconds: float) -> Iterator[Event]:
        """Yield an idle or waiting event, if it takes time."""
        if seconds > 0:
            yield self._event(kind, name, seconds)
            self.now += seconds

    def _turn(self, turn: Turn) -> Iterator[Event]:
        """Yield a micro-batch through one of the rank's stages."""
        way, step = turn.direction, self.step
        regions = step.chunk(turn.chunk)
        first = step.chunk(0)[0][0] if step.rank == 0 else "head"
        for name, layer in regions if way == "forward" else reversed(regions):
            if (name, way) not in step.graph_times:
                continue
            seconds, label = step.graph_times[name, way].seconds, "embedding and head"
            gathers: Sequence[Transfer] = ()
            reduces: Sequence[Transfer] = ()
            wait = 0.0
            if layer is not None:
                label = f"layer {layer}"
                gathers = self.data.gather_before_layer(way, turn.micro_batch)
                reduces = self.data.reduce_after_layer(way, turn.micro_batch)
                wait = self.data.layer_wait(way, turn.micro_batch, seconds)
            elif way == "forward" and name == first:
                gathers = self.data.gather_before_micro_batch(turn.micro_batch)
                wait = total_seconds(gathers)
            yield from self._transfers(gathers, label, self.now + wait - total_seconds(gathers))
            yield from self._pause("wait", "parameters of data ranks", wait)
            yield self._event(way, name, seconds, layer=layer, micro_batch=turn.micro_batch)
            self.now += seconds
            yield from self._transfers(reduces, label, self.now - total_seconds(reduces))

    def _end(self) -> Iterator[Event]:
        """Yield the data-parallel transfers that remain after the last region."""
        model = self.step.model
        layers = model.layer_seconds(self.step.rank)
        wait = self.data.end_seconds(sum(backward for _, backward in layers), len(layers))
        last = self.data.non_layer_reduce if self.data.fsdp else self.data.step_transfers
        begin = self.now if self.data.fsdp else self.now + wait - total_seconds(last)
        yield from self._transfers(last, "embedding and head" if self.data.fsdp else "all", begin)
        yield from self._pause("wait", "the last gradients", wait)

    def _transfers(self, transfers: Sequence[Transfer], name: str, begin: float) -> Iterator[Event]:
        """Yield events of transfers from `begin` on, cut where they would overlap earlier ones."""
        for transfer in transfers:
            end = begin + transfer.seconds
            begin = max(begin, self.free)
            self.free = max(begin, end)
            yield Event(
                transfer.purpose, name, begin, self.free, DATA, turn=self.number, transfer=transfer
            )
            begin = end


@dataclass(frozen=True)
class _Idle:
    """Idle seconds of a pipeline rank: at the beginning, before turns, and at the end."""

    begin: float
    before: Mapping[int, float]
    end: float

    @property
    def total(self) -> float:
        return self.begin + sum(self.before.values()) + self.end


def _idle(step: StepTimeline, order: Sequence[Turn]) -> _Idle:
    """Return a rank's bubble under 1F1B, split by place.

    Places are before the first input, before the first gradient, between the last gradients and
    after the last one. They add up to one turn of each other rank.
    """
    times, rank = step.model.turns, step.rank
    earlier, later = times[:rank], times[rank + 1 :]

    def share(ranks: Sequence[tuple[float, float, float]], way: int) -> float:
        return sum(times_of_rank[way] for times_of_rank in ranks) / step.virtual

    warm_up_count = warm_up(rank, step.ranks, step.virtual, step.micro_batches)
    before = {min(warm_up_count + 1, len(order) - 1): share(later, 1)}
    for number in range(len(order) - warm_up_count, len(order)):
        before[number] = before.get(number, 0.0) + share(later, 0) / warm_up_count
    if not warm_up_count:
        before[len(order) - 1] = before.get(len(order) - 1, 0.0) + share(later, 0)
    return _Idle(share(earlier, 0), before, share(earlier, 1))
