"""Memory of a rank over a step, from the liveness analysis that predicts its peak."""

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
    """Memory of a rank from one moment on, in bytes, without what is constant over the step.

    Attributes:
        time: Seconds from the start of the step.
        saved: Activations saved for the backward pass.
        working: Temporary memory of the running region, without logits.
        logits: Logits of the running region, in addition to `working`.
        event: Event that begins or ends at this moment, or is in progress.
        lacking: Gradients that are not yet allocated, to be subtracted from the constant memory.
    """

    time: float
    saved: float
    working: float
    logits: float
    event: Event
    lacking: float = 0.0

    @property
    def total(self) -> float:
        """Return the sum in bytes, less the gradients that are not yet allocated."""
        return self.saved + self.working + self.logits - self.lacking


@dataclass(frozen=True)
class MemoryLevel:
    """Live memory in a graph from one op on.

    Attributes:
        time: Seconds from the graph's start.
        live: Bytes of live values, including those saved for and by the graph.
        logits: Bytes of logits while the loss runs, in addition to `live`.
        values: Names of the live values.
    """

    time: float
    live: float
    logits: float
    values: tuple[str, ...]


@dataclass(frozen=True)
class EventMemory:
    """An event, and the memory in use when it begins.

    Attributes:
        saved: Bytes saved for the backward pass.
        own: Bytes that this run saves (forward) or frees (backward); 0 if no region runs.
        lacking: Bytes of gradients that are not yet allocated.
        runs: Number of runs whose activations are saved, by region.
    """

    event: Event
    saved: float
    own: float
    lacking: float
    runs: Mapping[str, int]

    @property
    def after(self) -> float:
        """Return the bytes saved for the backward pass when the event ends."""
        if not self.event.runs:
            return self.saved
        return self.saved - self.own if self.event.kind == "backward" else self.saved + self.own


def moments(step: StepTimeline) -> Iterator[Moment]:
    """Yield the moments of a step at which memory changes, in chronological order."""
    levels = {key: graph_levels(step, *key) for key in step.graph_times}
    events = list(event_memory(step))
    for current, following in zip(events, [*events[1:], None], strict=True):
        event = current.event
        if not event.runs:
            if event.lane == COMPUTE:
                yield Moment(event.begin, current.saved, 0.0, 0.0, event, current.lacking)
            continue
        for level in levels[step.key(event)]:
            live = max(0.0, level.live - current.own) if event.kind == "backward" else level.live
            begin = event.begin + level.time
            yield Moment(begin, current.saved, live, level.logits, event, current.lacking)
        lacking = following.lacking if following else 0.0
        yield Moment(event.end, current.after, 0.0, 0.0, event, lacking)


def event_memory(step: StepTimeline) -> Iterator[EventMemory]:
    """Yield every event of a step with the memory in use when it begins."""
    regions, symbols = step.program.regions, step.cost.symbols
    per_region = {name: float(saved_bytes(regions[name], symbols)) for name, _ in step.graph_times}
    per_region.update(step.model.activations.saved)
    gradients = _step_gradients(step)
    saved, lacking = 0.0, gradients.total
    runs = dict.fromkeys(per_region, 0)
    for event in step.events:
        run_bytes = per_region[event.name] if event.runs else 0.0
        current = EventMemory(event, saved, run_bytes, lacking, dict(runs))
        yield current
        saved = current.after
        if event.runs:
            runs[event.name] += -1 if event.kind == "backward" else 1
        if event.kind == "backward":
            lacking = max(
                0.0, lacking - _allocated_gradients(event, gradients, len(step.program.layers))
            )


def _step_gradients(step: StepTimeline) -> StepGradients:
    model, program = step.model, step.program
    own = stage_parameters(program, len(program.layers), first=True, last=True)
    dtype = model.spec.precision.compute
    return step_gradients(program, own, dtype, model.sharding, model.micro_batches)


def _allocated_gradients(event: Event, gradients: StepGradients, layers: int) -> float:
    """Return the bytes of gradients that a backward event allocates."""
    if event.layer is not None:
        return gradients.layer
    if event.name == "embed":
        return gradients.embedding
    return gradients.total - gradients.embedding - layers * gradients.layer


def graph_levels(step: StepTimeline, region: str, direction: Direction) -> list[MemoryLevel]:
    """Return the live memory during each op of a region's graph, in order.

    A backward graph's levels also include the workspace of kernels.
    """
    activations = step.model.activations
    graph, region_graphs = step.graph(region, direction), step.program.regions[region]
    begins: Mapping[str, float] = {
        span.node.name: span.begin for span in step.graph_times[region, direction].spans
    }
    saved = region_graphs.saved if direction == "forward" else ()
    now, levels = 0.0, []
    for node, nbytes, values in live_values(graph, saved, step.cost.symbols):
        now = max(now, begins.get(node.name, now))
        logits = activations.logits if op_of(node).is_loss else 0.0
        levels.append(MemoryLevel(now, nbytes, logits, tuple(value.name for value in values)))
    # Workspace of kernels, such as attention's scores, is not a value of the graph.
    if region in activations.peak and direction == "backward":
        workspace = max(0.0, activations.peak[region] - max(level.live for level in levels))
        levels = [replace(level, live=level.live + workspace) for level in levels]
    return levels
