"""Memory of a rank over a step, by the liveness that the predicted peak is taken from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llamac.ir.graph import op_of, ops_in
from llamac.passes.footprint import Activations, Fresh, fresh_gradients, held
from llamac.passes.liveness import Live, saved_bytes
from llamac.passes.timing import COMPUTE
from llamac.plan.timeline.events import Event
from llamac.plan.timeline.pipeline_order import Direction
from llamac.plan.timeline.step import StepTimeline


@dataclass(frozen=True)
class Moment:
    """Bytes held from a moment on.

    Attributes:
        time: Seconds.
        saved: Activations kept for the backward pass.
        working: What the running region needs besides.
        lacking: Gradients that are not there yet.
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


def moments(step: StepTimeline) -> Iterator[Moment]:
    """Return the moments in order, without memory held throughout the step."""
    found = step.model.activations
    curves = {key: _curve(step, found, *key) for key in step.graphs}
    regions, symbols = step.program.regions, step.cost.symbols
    kept = {name: float(saved_bytes(regions[name], symbols)) for name, _ in curves}
    kept.update(found.kept)
    fresh = _fresh(step)
    saved, lacking = 0.0, fresh.total
    for event in step.events:
        if not event.runs:
            if event.lane == COMPUTE:
                yield Moment(event.begin, saved, 0.0, 0.0, event, lacking)
            continue
        own, back = kept[event.name], event.kind == "backward"
        below = saved - own if back else saved
        for time, live, logits in curves[step.key(event)]:
            if back:
                yield Moment(
                    event.begin + time, saved, max(0.0, live - own), logits, event, lacking
                )
            else:
                yield Moment(event.begin + time, saved, live, logits, event, lacking)
        saved = below if back else saved + own
        if back:
            lacking = max(0.0, lacking - _made(event, fresh, len(step.program.layers)))
        yield Moment(event.end, saved, 0.0, 0.0, event, lacking)


def _fresh(step: StepTimeline) -> Fresh:
    model, program = step.model, step.program
    own = held(program, len(program.layers), first=True, last=True)
    dtype = model.spec.precision.compute
    return fresh_gradients(program, own, dtype, model.sharding, model.micro_batches)


def _made(event: Event, fresh: Fresh, layers: int) -> float:
    """Return bytes of the gradients that are there once a backward pass is over."""
    if event.layer is not None:
        return fresh.layer
    if event.name == "embed":
        return fresh.embedding
    return fresh.total - fresh.embedding - layers * fresh.layer


def _curve(
    step: StepTimeline, found: Activations, region: str, direction: Direction
) -> list[tuple[float, float, float]]:
    """Return (seconds from a graph's start, bytes alive, bytes of logits) of each op."""
    graph, whole = step.graph(region, direction), step.program.regions[region]
    live = Live(graph, whole.saved if direction == "forward" else (), step.cost.symbols)
    begins: Mapping[str, float] = {
        span.node.name: span.begin for span in step.graphs[region, direction].spans
    }
    now, curve = 0.0, []
    for node in ops_in(graph):
        now = max(now, begins.get(node.name, now))
        logits = found.logits if "cross_entropy" in op_of(node).name else 0.0
        curve.append((now, live.during(node), logits))
        live.run(node)
    # What a kernel writes for itself, such as attention's scores, no value of the graph is.
    if region in found.peak:
        highest = max(bytes for _, bytes, _ in curve)
        unseen = max(0.0, found.peak[region] - highest) if direction == "backward" else 0.0
        curve = [(time, bytes + unseen, logits) for time, bytes, logits in curve]
    return curve
