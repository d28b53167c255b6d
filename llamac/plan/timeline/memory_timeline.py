"""Memory of a rank over a step, by the liveness analysis behind the predicted peak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from llamac.ir.graph import op_of
from llamac.passes.analysis.liveness import live_values, saved_bytes
from llamac.passes.analysis.peak_memory import StepGradients, stage_parameters, step_gradients
from llamac.passes.analysis.timing import COMPUTE
from llamac.plan.timeline.pipeline_order import Direction
from llamac.plan.timeline.step import StepTimeline
from llamac.plan.timeline.step_events import Event


@dataclass(frozen=True)
class Moment:
    """Memory from one moment on, in bytes.

    Attributes:
        time: Seconds.
        saved: Activations kept for the backward pass.
        working: Temporary memory of the running region.
        lacking: Gradients not yet allocated.
    """

    time: float
    saved: float
    working: float
    logits: float
    event: Event
    lacking: float = 0.0

    @property
    def total(self) -> float:
        return self.saved + self.working + self.logits - self.lacking


@dataclass(frozen=True)
class Level:
    """Live memory in a graph from one op on.

    Attributes:
        time: Seconds from the graph's start.
        live, logits: Bytes, including values saved for and by the graph.
        values: Names of the live values.
    """

    time: float
    live: float
    logits: float
    values: tuple[str, ...]


@dataclass(frozen=True)
class EventHolding:
    """An event and the memory in use as it begins.

    Attributes:
        saved: Bytes kept for the backward pass.
        own: Bytes that this region's run saves; in the forward pass they are not yet in `saved`.
        lacking: Bytes of gradients not yet allocated.
        runs: Number of runs of each region with saved values.
    """

    event: Event
    saved: float
    own: float
    lacking: float
    runs: Mapping[str, int]

    @property
    def after(self) -> float:
        """Return the saved bytes after the event."""
        if not self.event.runs:
            return self.saved
        return self.saved - self.own if self.event.kind == "backward" else self.saved + self.own


def moments(step: StepTimeline) -> Iterator[Moment]:
    """Yield the moments in order, without memory that is constant over the step."""
    levels = {key: graph_levels(step, *key) for key in step.graphs}
    held = list(holdings(step))
    for one, following in zip(held, [*held[1:], None], strict=True):
        event = one.event
        if not event.runs:
            if event.lane == COMPUTE:
                yield Moment(event.begin, one.saved, 0.0, 0.0, event, one.lacking)
            continue
        for level in levels[step.key(event)]:
            live = max(0.0, level.live - one.own) if event.kind == "backward" else level.live
            begin = event.begin + level.time
            yield Moment(begin, one.saved, live, level.logits, event, one.lacking)
        lacking = following.lacking if following else 0.0
        yield Moment(event.end, one.after, 0.0, 0.0, event, lacking)


def holdings(step: StepTimeline) -> Iterator[EventHolding]:
    """Yield every event of the step with the memory in use as it begins."""
    regions, symbols = step.program.regions, step.cost.symbols
    per_region = {name: float(saved_bytes(regions[name], symbols)) for name, _ in step.graphs}
    per_region.update(step.model.activations.saved)
    gradients = _step_gradients(step)
    saved, lacking = 0.0, gradients.total
    runs = dict.fromkeys(per_region, 0)
    for event in step.events:
        own = per_region[event.name] if event.runs else 0.0
        one = EventHolding(event, saved, own, lacking, dict(runs))
        yield one
        saved = one.after
        if event.runs:
            runs[event.name] += -1 if event.kind == "backward" else 1
        if event.kind == "backward":
            lacking = max(0.0, lacking - _made(event, gradients, len(step.program.layers)))


def _step_gradients(step: StepTimeline) -> StepGradients:
    model, program = step.model, step.program
    own = stage_parameters(program, len(program.layers), first=True, last=True)
    dtype = model.spec.precision.compute
    return step_gradients(program, own, dtype, model.sharding, model.micro_batches)


def _made(event: Event, gradients: StepGradients, layers: int) -> float:
    """Return the bytes of gradients that a backward event allocates."""
    if event.layer is not None:
        return gradients.layer
    if event.name == "embed":
        return gradients.embedding
    return gradients.total - gradients.embedding - layers * gradients.layer


def graph_levels(step: StepTimeline, region: str, direction: Direction) -> list[Level]:
    """Return the live memory during each op of a graph."""
    found = step.model.activations
    graph, whole = step.graph(region, direction), step.program.regions[region]
    begins: Mapping[str, float] = {
        span.node.name: span.begin for span in step.graphs[region, direction].spans
    }
    saved = whole.saved if direction == "forward" else ()
    now, levels = 0.0, []
    for node, nbytes, values in live_values(graph, saved, step.cost.symbols):
        now = max(now, begins.get(node.name, now))
        logits = found.logits if op_of(node).is_loss else 0.0
        levels.append(Level(now, nbytes, logits, tuple(value.name for value in values)))
    # What a kernel writes for itself, such as attention's scores, no value of the graph is.
    if region in found.peak and direction == "backward":
        unseen = max(0.0, found.peak[region] - max(level.live for level in levels))
        levels = [replace(level, live=level.live + unseen) for level in levels]
    return levels
