"""Predicted step as JSON for the explorer page: events, memory over time, cost of each op."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

from torch import fx

from llamac.ir.graph import attributes, ops_in
from llamac.ir.values import operation_count
from llamac.passes.analysis.timing import COMPUTE, Span
from llamac.plan.prediction import Prediction
from llamac.plan.render.prediction_tables import MEMORY_LABELS, TIME_LABELS
from llamac.plan.timeline.breakdown import bound_of, link_of, ops, traffic, transfer_costs
from llamac.plan.timeline.fold import fold
from llamac.plan.timeline.memory_timeline import event_memory, graph_levels, moments
from llamac.plan.timeline.step import StepTimeline
from llamac.plan.timeline.trace import trace_json

DIGITS = 6
MAX_OPS = 20  # kinds of ops listed, slowest first


def step_data(step: StepTimeline) -> dict[str, Any]:
    """Return a predicted step as JSON values, in seconds and bytes.

    Graphs are named such as `block.f` and `block.b` for forward and backward. `time` has the events
    of the slowest pipeline rank, `memory` those of the rank with the highest peak (None: the same
    rank). `trace` is the file of `llamac plan --trace`, gzipped, in base64.
    """
    prediction = step.prediction
    ranks = {rank: _rank(step, rank) for rank in dict.fromkeys((step.rank, *step.model.full_ranks))}
    peaks = {rank: max(moment.total for moment in moments(item)) for rank, item in ranks.items()}
    fullest = max(peaks, key=lambda rank: (peaks[rank], rank == step.rank))
    return {
        **_summary(prediction),
        "graphs": {
            f"{region}.{way[0]}": _graph(step, region, way) for region, way in step.graph_times
        },
        "time": _events(step),
        "memory": None if fullest == step.rank else _events(ranks[fullest]),
        "transfers": [
            {**vars(item), "node": item.node and f"{item.node[0]}.{item.node[1][0]}.{item.node[2]}"}
            for item in sorted(transfer_costs(step), key=lambda item: -item.count * item.exposed)
        ],
        "ops": [{**vars(item), "total": item.total} for item in ops(step)[:MAX_OPS]],
        "trace": gzip_base64(trace_json(step)),
    }


def gzip_base64(value: Any) -> str:
    """Return a JSON value, gzipped and in base64. Equal values give equal text."""
    return base64.b64encode(gzip.compress(json.dumps(value).encode(), mtime=0)).decode()


def _rank(step: StepTimeline, rank: int) -> StepTimeline:
    return step if rank == step.rank else StepTimeline(step.prediction, step.program, rank)


def _summary(prediction: Prediction) -> dict[str, Any]:
    device, memory, seconds = (
        prediction.setting.device,
        prediction.memory,
        prediction.seconds,
    )
    return {
        "device": device.title,
        "capacity": device.memory,
        "fits": prediction.fits,
        "held": _terms(MEMORY_LABELS, vars(memory)),
        "peak": memory.total,
        "taken": _terms(TIME_LABELS, vars(seconds)),
        "seconds": seconds.total,
        "tokens_per_second_per_gpu": prediction.tokens_per_second_per_gpu,
        "mfu": prediction.mfu,
        "days": prediction.days,
        "flops_per_token": prediction.flops_per_token + prediction.attention_per_token,
    }


def _terms(names: Mapping[str, str], values: Mapping[str, float]) -> list[tuple[str, str, float]]:
    return [(key, words, values[key]) for key, words in names.items() if values[key]]


def _graph(step: StepTimeline, region: str, way: Any) -> dict[str, Any]:
    """Return one run of a graph: spans, live values during each op, cost of each op."""
    timed, graph = step.graph_times[region, way], step.graph(region, way)
    spans = {span.node: span for span in timed.spans}
    return {
        "seconds": _round_digits(timed.seconds),
        "spans": [
            (
                s.node.name,
                s.lane,
                _round_digits(s.begin),
                _round_digits(s.end),
                _round_digits(s.exposed),
            )
            for s in timed.spans
        ],
        "levels": [
            (_round_digits(level.time), level.live, level.logits, level.values)
            for level in graph_levels(step, region, way)
        ],
        "costs": {node.name: _cost(step, node, spans.get(node)) for node in ops_in(graph)},
    }


def _cost(step: StepTimeline, node: fx.Node, span: Span | None) -> dict[str, Any]:
    """Return an op's seconds, FLOPs, bytes and bottleneck; empty for views and waits."""
    if span is None:
        return {}
    seconds = {"seconds": _round_digits(span.end - span.begin)}
    if span.lane != COMPUTE:
        device, axis = step.prediction.setting.device, attributes(node)["axis"]
        link = link_of(device, step.cost.mesh[axis], step.cost.strides[axis])
        sent = {"sent": round(step.cost.wire_bytes(node)), "exposed": _round_digits(span.exposed)}
        return {**seconds, **sent, "bound": f"the link {link}", "axis": axis}
    flops, moved = operation_count(node, step.cost.symbols), traffic(step, node)
    return {**seconds, "flops": flops, "moved": moved, "bound": bound_of(step, flops, moved)}


def _events(step: StepTimeline) -> dict[str, Any]:
    """Return a pipeline rank's events, without repeated turns in the middle of the step.

    An event is (kind, name, begin, end, lane, layer, micro-batch, kept bytes, lacking bytes, runs),
    text as indices into `words`. runs: for each of `regions`, the number of its runs with saved
    activations, whose bytes per run are in `kept`.
    """
    omitted, words = fold(step), dict[str, int]()
    rows = []
    regions: list[str] = []
    kept: dict[str, int] = {}
    for holding in event_memory(step):
        event, regions = holding.event, list(holding.runs)
        if event.runs:
            kept[event.name] = round(holding.own)
        if omitted.shows(event):
            texts = (event.kind, event.name, event.lane)
            kind, name, lane = (words.setdefault(text, len(words)) for text in texts)
            when = _round_digits(event.begin), _round_digits(event.end)
            where = -1 if event.layer is None else event.layer, event.micro_batch or 0
            memory = round(holding.saved), round(holding.lacking), list(holding.runs.values())
            rows.append((kind, name, *when, lane, *where, *memory))
    return {
        "rank": step.rank,
        "ranks": step.ranks,
        "micro_batches": step.micro_batches,
        "seconds": _round_digits(step.seconds),
        "fold": (_round_digits(omitted.begin), _round_digits(omitted.end), omitted.hidden),
        "words": list(words),
        "regions": regions,
        "kept": kept,
        "events": rows,
        "peak": max(moment.total for moment in moments(step)),
    }


def _round_digits(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
