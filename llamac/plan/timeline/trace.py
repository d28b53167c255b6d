"""Write a step as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

It has one process, the slowest rank, with a thread for compute and one for each axis that
communicates. The format is Chrome's Trace Event Format, with times in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from llamac.ir.graph import op_of, results
from llamac.passes.analysis.timing import COMPUTE, Span
from llamac.plan.timeline.memory_timeline import moments
from llamac.plan.timeline.step import StepTimeline
from llamac.plan.timeline.step_events import DATA, PIPELINE, Event

MAX_OP_EVENTS = 100_000
"""Maximum number of op events; with more, only the first and last micro-batches have them."""
FULL = 2  # first and last micro-batches that always have op events

TraceEvent = dict[str, Any]


def trace_json(step: StepTimeline) -> dict[str, Any]:
    """Return a step's trace as JSON values; `otherData` has the setting and level of detail."""
    detailed = _detailed_micro_batches(step)
    lanes = _lanes(step)
    threads = {lane: number for number, lane in enumerate(lanes)}
    events = [*_names(step, threads)]
    for event in step.events:
        if event.runs:
            events += _region(step, event, threads, event.micro_batch in detailed)
        else:
            sent = {"bytes": round(event.sent)} if event.sent else None
            lane = threads[event.lane]
            events.append(_event(_title(event), event.kind, event.begin, event.end, lane, sent))
    events += _memory(step)
    setting = step.prediction.setting
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "spec": setting.spec.name,
            "device": setting.device.name,
            "ranks": setting.spec.parallel.ranks,
            "step_seconds": step.prediction.seconds.total,
            "micro_batches": step.micro_batches,
            "micro_batches_shown_op_by_op": len(detailed),
        },
    }


def _detailed_micro_batches(step: StepTimeline) -> set[int]:
    """Return the micro-batches whose ops are shown one by one."""
    ops = sum(len(step.run(event).spans) for event in step.events if event.runs)
    micro_batches = range(step.micro_batches)
    return (
        set(micro_batches)
        if ops <= MAX_OP_EVENTS
        else {*micro_batches[:FULL], *micro_batches[-FULL:]}
    )


def _lanes(step: StepTimeline) -> list[str]:
    """Return the lanes: compute, mesh axes, data-parallel transfers, pipeline sends."""
    used = {event.lane for event in step.events}
    used.update(span.lane for graph in step.graph_times.values() for span in graph.spans)
    return [lane for lane in (COMPUTE, *step.cost.mesh, DATA, PIPELINE) if lane in used]


def _names(step: StepTimeline, threads: dict[str, int]) -> Iterator[TraceEvent]:
    parallel = step.prediction.setting.spec.parallel
    title = f"a rank of {parallel.ranks:,}"
    if step.ranks > 1:
        title += f", pipeline rank {step.rank} of {step.ranks}"
    yield {"ph": "M", "pid": 0, "name": "process_name", "args": {"name": title}}
    for lane, thread in threads.items():
        thread_name = lane if lane == COMPUTE else f"{lane} communication"
        yield {
            "ph": "M",
            "pid": 0,
            "tid": thread,
            "name": "thread_name",
            "args": {"name": thread_name},
        }
        order = {"sort_index": thread}
        yield {"ph": "M", "pid": 0, "tid": thread, "name": "thread_sort_index", "args": order}


def _region(
    step: StepTimeline, event: Event, threads: dict[str, int], detailed: bool
) -> Iterator[TraceEvent]:
    """Yield the event of a region's graph, with its ops and waits nested in it."""
    thread, where = threads[COMPUTE], {"micro_batch": event.micro_batch}
    if event.layer is not None:
        where["layer"] = event.layer
    yield _event(_title(event), event.kind, event.begin, event.end, thread, where)
    if not detailed:
        return
    for span in step.run(event).spans:
        begin, end, name = event.begin + span.begin, event.begin + span.end, _result(span)
        what = {"op": op_of(span.node).name, "from": span.node.meta["where"]}
        if span.lane == COMPUTE:
            yield _event(name, "op", begin, end, thread, what)
            continue
        if span.exposed:
            yield _event(f"wait for {name}", "wait", end - span.exposed, end, thread, what)
        what["bytes"] = round(step.cost.wire_bytes(span.node))
        yield _event(name, "collective", begin, end, threads[span.lane], what)


def _memory(step: StepTimeline) -> Iterator[TraceEvent]:
    """Yield a memory counter in GB: the peak of every event."""
    memory = step.prediction.memory
    constant = memory.total - memory.activations - memory.logits
    for event, event_moments in groupby(moments(step), key=lambda moment: moment.event):
        worst = max(event_moments, key=lambda moment: moment.total)
        parts = {
            "all along": constant - worst.lacking,
            "kept": worst.saved,
            "working": worst.working + worst.logits,
        }
        parts = {name: round(nbytes / 1e9, 4) for name, nbytes in parts.items()}
        begin = round(event.begin * 1e6, 3)
        yield {"ph": "C", "pid": 0, "name": "memory, GB", "ts": begin, "args": parts}


def _title(event: Event) -> str:
    if not event.runs:
        return event.name if event.kind in ("bubble", "update") else f"{event.kind}: {event.name}"
    layer = "" if event.layer is None else f" {event.layer}"
    return f"{event.name}{layer} {event.kind}"


def _result(span: Span) -> str:
    """Return the name of an op's result: `d_w2`."""
    value = next((value for value in results(span.node) if value is not None), span.node)
    return value.name.removesuffix("_started")


def _event(
    name: str, kind: str, begin: float, end: float, thread: int, arguments: TraceEvent | None = None
) -> TraceEvent:
    event = {"ph": "X", "pid": 0, "tid": thread, "name": name, "cat": kind}
    # Ends are rounded instead of durations, so that nested events stay nested.
    start, stop = round(begin * 1e6, 3), round(end * 1e6, 3)
    event |= {"ts": start, "dur": max(0.0, round(stop - start, 3))}
    return event | ({"args": arguments} if arguments else {})
