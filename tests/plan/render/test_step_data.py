"""A step as data for pages: the numbers are those of the plan, and what lives adds up."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from typing import Any

import pytest

from llamac.passes.analysis.liveness import LiveMemory, live_values, saved_bytes
from llamac.plan.render.step_data import gzip_base64, step_data
from llamac.plan.timeline.breakdown import transfer_costs
from llamac.plan.timeline.memory_timeline import moments
from llamac.plan.timeline.step import StepTimeline
from llamac.plan.timeline.trace import trace_json
from tests.plan.steps import LAYOUTS, planned


@cache
def step_of(name: str) -> StepTimeline:
    return StepTimeline(*planned(name))


@cache
def data_of(name: str) -> dict[str, Any]:
    return step_data(step_of(name))


def named(view: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("kind", "name", "begin", "end", "lane", "layer", "batch", "saved", "lacking", "runs")
    events: list[dict[str, Any]] = [dict(zip(keys, event, strict=True)) for event in view["events"]]
    for event in events:
        event |= {key: view["words"][event[key]] for key in ("kind", "name", "lane")}
    return events


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_peak_of_the_page_is_the_plan_s(name: str) -> None:
    """What the page adds up: held all along, kept, alive in the region that runs."""
    data, prediction = data_of(name), step_of(name).prediction
    view = data["memory"] or data["time"]
    highest = 0.0
    for event in named(view):
        if event["kind"] in ("forward", "backward"):
            own = view["kept"][event["name"]] if event["kind"] == "backward" else 0
            graph = data["graphs"][f"{event['name']}.{event['kind'][0]}"]
            for _, live, logits, _ in graph["levels"]:
                working = max(0.0, live - own) + logits
                highest = max(highest, event["saved"] + working - event["lacking"])
    held = sum(nbytes for key, _, nbytes in data["held"] if key not in ("activations", "logits"))
    # Among turns that are left out as alike, one may hold a few tokens more.
    assert highest == pytest.approx(view["peak"], rel=1e-4)
    assert held + highest == pytest.approx(prediction.memory.total, rel=0.02)
    assert data["seconds"] == prediction.seconds.total
    assert sum(seconds for *_, seconds in data["taken"]) == pytest.approx(data["seconds"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_kept_is_the_runs_that_keep_something(name: str) -> None:
    data = data_of(name)
    for view in filter(None, (data["time"], data["memory"])):
        for event in named(view):
            kept = [view["kept"].get(region, 0) for region in view["regions"]]
            held = sum(one * runs for one, runs in zip(kept, event["runs"], strict=True))
            assert event["saved"] == pytest.approx(held, abs=len(kept) * 1e3)


@pytest.mark.parametrize("name", LAYOUTS)
def test_values_alive_have_the_bytes_alive(name: str) -> None:
    step = step_of(name)
    for region, way in step.graph_times:
        whole, graph = step.program.regions[region], step.graph(region, way)
        saved = whole.saved if way == "forward" else ()
        live = LiveMemory(graph, saved, step.cost.symbols)
        for node, nbytes, values in live_values(graph, saved, step.cost.symbols):
            assert nbytes == live.bytes_during(node)
            assert nbytes == sum(value.meta["type"].nbytes(step.cost.symbols) for value in values)
            live.run(node)
        assert saved_bytes(whole, step.cost.symbols) >= 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_events_outside_the_fold_are_those_of_the_step(name: str) -> None:
    step, view = step_of(name), data_of(name)["time"]
    begin, end, hidden = view["fold"]
    shown = named(view)
    assert len(shown) == len(step.events) if not hidden else len(shown) < len(step.events)
    assert all(one["end"] <= begin * 1.00001 or one["begin"] >= end * 0.99999 for one in shown)
    assert view["seconds"] == pytest.approx(step.seconds, rel=1e-5)
    assert max(m.total for m in moments(step)) == view["peak"]


@pytest.mark.parametrize("name", ["FSDP over tensor ranks", "1F1B", "one rank"])
def test_costs_and_transfers_name_nodes(name: str) -> None:
    step, data = step_of(name), data_of(name)
    for key, graph in data["graphs"].items():
        region, way = key.split(".")
        module = step.graph(region, "forward" if way == "f" else "backward")
        names = {node.name for node in module.nodes}
        assert {span[0] for span in graph["spans"]} <= names
        assert graph["costs"].keys() <= names
        spent = sum(cost.get("seconds", 0.0) for cost in graph["costs"].values())
        assert spent >= graph["seconds"] * 0.99
    exposed = [one["count"] * one["exposed"] for one in data["transfers"]]
    assert exposed == sorted(exposed, reverse=True)
    assert len(exposed) == len(transfer_costs(step))
    nodes = {one["node"] for one in data["transfers"]} - {None}
    assert all(key.rpartition(".")[0] in data["graphs"] for key in nodes)


def test_the_trace_is_that_of_the_command() -> None:
    step = step_of("FSDP over tensor ranks")
    text = gzip.decompress(base64.b64decode(data_of("FSDP over tensor ranks")["trace"]))
    assert json.loads(text) == json.loads(json.dumps(trace_json(step)))
    assert gzip_base64([1]) == gzip_base64([1])
