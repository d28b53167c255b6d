"""The trace of a step: Chrome's Trace Event Format, and the time that was predicted."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from llamac.plan.timeline.step import StepTimeline
from llamac.plan.timeline.trace import trace_json
from tests.plan.steps import LAYOUTS, planned

Event = dict[str, Any]


def traced(name: str) -> dict[str, Any]:
    """As it is after it was written and read."""
    return json.loads(json.dumps(trace_json(StepTimeline(*planned(name))), allow_nan=False))


def spans(trace: dict[str, Any]) -> list[Event]:
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_it_ends_when_the_step_does(name: str) -> None:
    trace = traced(name)
    end = max(event["ts"] + event["dur"] for event in spans(trace))
    assert end / 1e6 == pytest.approx(trace["otherData"]["step_seconds"], abs=2e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_events_are_complete_and_threads_have_names(name: str) -> None:
    trace = traced(name)
    assert trace["displayTimeUnit"] == "ms"
    names = {
        event["tid"]: event["args"]["name"]
        for event in trace["traceEvents"]
        if event["ph"] == "M" and event["name"] == "thread_name"
    }
    assert names[0] == "compute"
    for event in spans(trace):
        assert event["pid"] == 0
        assert event["tid"] in names
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        assert isinstance(event["name"], str)
        assert isinstance(event["cat"], str)
    assert {event["tid"] for event in spans(trace)} == set(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_spans_of_a_thread_nest(name: str) -> None:
    # Viewers drop a span that begins within another and ends after it.
    threads = defaultdict(list)
    for event in spans(traced(name)):
        threads[event["tid"]].append((event["ts"], -event["dur"]))
    for found in threads.values():
        open_until: list[float] = []
        for begin, length in sorted(found):
            end = begin - length
            while open_until and open_until[-1] <= begin + 1e-4:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 1e-4
            open_until.append(end)


def test_microbatches_come_in_the_order_of_1f1b() -> None:
    order: list[str] = []
    for event in spans(traced("1F1B")):
        if event["cat"] in ("forward", "backward"):
            turn = f"{event['cat'][0].upper()}{event['args']['micro_batch']}"
            if order[-1:] != [turn]:
                order.append(turn)
    assert order[:4] == ["F0", "B0", "F1", "B1"]  # the last stage, which has the loss, waits least
    assert len(order) == 2 * 16


def test_collectives_name_their_bytes_and_what_waits_for_them() -> None:
    found = spans(traced("FSDP over tensor ranks"))
    moved = [event for event in found if event["cat"] == "collective"]
    assert {event["args"]["op"] for event in moved} >= {"all_gather_start", "reduce_scatter"}
    assert all(event["args"]["bytes"] > 0 for event in moved)
    waits = [event for event in found if event["name"] == "wait for ffn_out"]
    assert len(waits) == 8 * 8  # exposed in each of 8 layers, 8 micro-batches
    assert any(event["name"] == "gather: layer 3" for event in found)
    assert sum(event["cat"] == "update" for event in found) == 1


def test_a_counter_shows_memory_up_to_the_predicted_peak() -> None:
    trace = traced("FSDP over tensor ranks")
    held = [event["args"] for event in trace["traceEvents"] if event["ph"] == "C"]
    memory = planned("FSDP over tensor ranks")[0].memory
    worst = max(sum(parts.values()) for parts in held)
    assert worst * 1e9 == pytest.approx(memory.total, rel=0.01)
    assert {tuple(parts) for parts in held} == {("all along", "kept", "working")}


def test_a_long_step_shows_ops_of_its_ends_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamac.plan.timeline.trace.MAX_OP_EVENTS", 100)
    trace = traced("FSDP over tensor ranks")
    shown = trace["otherData"]
    assert (shown["micro_batches"], shown["micro_batches_shown_op_by_op"]) == (8, 4)
    inside = [event for event in spans(trace) if event["cat"] == "op"]
    regions = [event for event in spans(trace) if event["cat"] == "forward"]
    assert len(regions) == 8 * (8 + 2)
    middle = [r for r in regions if r["args"]["micro_batch"] == 4]
    begin, end = middle[0]["ts"], middle[-1]["ts"] + middle[-1]["dur"]
    assert inside
    assert not [event for event in inside if begin <= event["ts"] < end]
