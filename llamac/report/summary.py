"""The data of a report as JSON values: curves, summary, events and hardware of each run."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llamac.data.accounting.epochs import epochs, run_tokens
from llamac.report.curve import EVALUATED, curve, extremes, numbers
from llamac.report.metrics_file import Columns
from llamac.report.recorded_run import Run
from llamac.runtime.errors import RunError

MOST_EVENTS = 2000  # of one kind; of more, the newest
LONGEST_SAMPLE = 20_000  # characters
STDERR = "_stderr"  # suffix of a metric's standard error
QUESTIONS = "/questions"  # suffix of a task's number of questions


def report(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the data of a report's page as JSON values.

    Keys: `written` (Unix time in seconds), `runs` in the given order, and `differences` between
    their specs.
    """
    return {
        "written": round(time.time()),
        "runs": [_run(run) for run in runs],
        "differences": differences([run.spec_values for run in runs]),
    }


def _run(run: Run) -> dict[str, Any]:
    columns, _ = run.metrics.newest_rows
    flops = _mapping(run.plan, "flops")
    return {
        "title": run.title,
        "directory": str(run.directory),
        "notes": run.notes,
        "curve": curve(columns),
        "validation": _validation(columns),
        "evaluations": _evaluations(columns),
        "summary": _summary(columns),
        "steps": _steps(run),
        "state": _state(run, columns),
        "planned": _planned(run, columns),
        "mfu": {
            "flops_per_token": run.start.get("flops_per_token", flops.get("per_token")),
            "attention_flops_per_token": flops.get("attention_per_token"),
            "peak_flops": run.start.get("peak_flops"),
            "given": bool(_mapping(run.spec_values, "hardware").get("peak_tflops")),
        },
        "sources": _sources(run),
        "events": _events(run, columns),
        "samples": _samples(run),
        "skipped": numbers(_skipped(columns)[-MOST_EVENTS:]),
        "start": {k: v for k, v in run.start.items() if k not in ("event", "step", "time")},
        "llamac": run.manifest.get("llamac"),
        "spec": _flat(run.spec_values),
    }


# --- Numbers ---------------------------------------------------------------------------------


def _summary(columns: Columns) -> dict[str, Any]:
    """Return the last row, and over all rows median speed, peak memory and best validation loss.

    Numbers are those of metrics.jsonl; a median of an even number of rows is the mean of two.
    """
    if not columns:
        return {}
    last = {name: numbers(values[-1:])[0] for name, values in columns.items()}
    middle = ("tokens_per_second", "mfu", "step_seconds")
    found: dict[str, Any] = {"last": last, "median": {}}
    for name in middle:
        known = _known(columns, name)
        found["median"][name] = numbers(np.median(known, keepdims=True))[0] if len(known) else None
    seconds, memory = _known(columns, "step_seconds"), _known(columns, "peak_memory_bytes")
    found["hours"] = float(seconds.sum()) / 3600 if len(seconds) else None
    found["peak_memory_bytes"] = numbers(memory.max(keepdims=True))[0] if len(memory) else None
    losses = _known(columns, "loss")
    found["loss"] = numbers(losses[-1:])[0] if len(losses) else None
    found["skipped"] = len(_skipped(columns))
    return found


def _known(columns: Columns, name: str) -> np.ndarray:
    values = columns.get(name, np.empty(0))
    return values[~np.isnan(values)]


def _skipped(columns: Columns) -> np.ndarray:
    """Return the steps that changed no weights."""
    if "skipped_steps" not in columns:
        return np.empty(0)
    return columns["step"][~np.isnan(columns["skipped_steps"])]


def _validation(columns: Columns) -> list[list[Any]]:
    """Return [step, tokens, validation loss, training loss] of each evaluation."""
    if "validation_loss" not in columns:
        return []
    rows = np.flatnonzero(~np.isnan(columns["validation_loss"]))
    rows = rows[extremes(columns["validation_loss"][rows])] if len(rows) else rows
    missing = np.full(len(columns["step"]), math.nan)
    names = ("step", "tokens", "validation_loss", "loss")
    found = [numbers(columns.get(name, missing)[rows]) for name in names]
    return [list(row) for row in zip(*found, strict=True)]


def _evaluations(columns: Columns) -> list[dict[str, Any]]:
    """Return the metrics of tasks: rows of [step, tokens, value, standard error or null].

    Metrics are named `eval/<task>/<metric>`, their standard errors the same and `_stderr`;
    `eval/<task>/questions` counts what they are of: the last one is given, or null.
    """
    found = []
    missing = np.full(len(columns.get("step", ())), math.nan)
    for name in sorted(columns):
        if not name.startswith(EVALUATED) or name.endswith((STDERR, QUESTIONS)):
            continue
        rows = np.flatnonzero(~np.isnan(columns[name]))
        rows = rows[extremes(columns[name][rows])] if len(rows) else rows
        names = ("step", "tokens", name, name + STDERR)
        values = [numbers(columns.get(one, missing)[rows]) for one in names]
        task, _, metric = name.removeprefix(EVALUATED).rpartition("/")
        listed = [list(row) for row in zip(*values, strict=True)]
        counts = _known(columns, f"{EVALUATED}{task}{QUESTIONS}")
        count = numbers(counts[-1:])[0] if len(counts) else None
        found.append({"task": task or metric, "metric": metric, "questions": count, "rows": listed})
    return found


def _steps(run: Run) -> int | None:
    return run.spec.total_steps if run.spec else None


def _planned(run: Run, columns: Columns) -> dict[str, Any]:
    """Return the plan's seconds and bytes of a step.

    compared: whether they come from the rows, which have them if the plan is for this hardware;
    otherwise from plan.json.
    """
    seconds = _known(columns, "predicted_step_seconds")
    memory = _known(columns, "predicted_peak_memory_bytes")
    device = run.plan.get("device")
    if len(seconds) and len(memory):
        found = [*numbers(seconds[-1:]), *numbers(memory[-1:])]
        return {"seconds": found[0], "memory": found[1], "device": device, "compared": True}
    room = _mapping(_mapping(run.plan, "memory"), "per_gpu")
    own = room.get("overhead", 0) if run.plan.get("kind") == "gpu" else 0
    step, total = run.plan.get("step_seconds", math.nan), room.get("total", math.nan)
    if not all(map(_is_number, (step, total, own))):
        return {}
    return {"seconds": step, "memory": total - own, "device": device, "compared": False}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _sources(run: Run) -> dict[str, Any]:
    """Return the tokens and epochs of each source; empty without a spec."""
    directory = run.data
    if run.spec is None or directory is None:
        return {}
    try:
        rows = [asdict(row) for row in epochs(run.spec, directory, run.directory)]
    except (RunError, OSError, ValueError, KeyError, TypeError) as error:
        return {"problem": str(error)}
    counted = all(row["prepared"] for row in rows)
    return {"rows": rows, "counted": counted, "total": run_tokens(run.spec)}


# --- Events ----------------------------------------------------------------------------------


def _state(run: Run, columns: Columns) -> dict[str, Any]:
    """Return the run's progress, the time of its last row, and the end of its last process."""
    step = numbers(columns["step"][-1:])[0] if columns else 0
    total, last = _steps(run), run.events[-1] if run.events else {}
    stop = next((e for e in reversed(run.events) if e["event"] in ("start", "stop")), {})
    try:
        written = run.metrics.path.stat().st_mtime
    except OSError:
        written = last.get("time")
    return {
        "step": step,
        "written": written,
        "finished": total is not None and step is not None and step >= total,
        "stopped": stop.get("event") == "stop",
        "error": stop.get("error") if stop.get("event") == "stop" else None,
        "recorded": bool(run.events),
    }


def _events(run: Run, columns: Columns) -> list[dict[str, Any]]:
    """Return starts, saves and stops with the tokens of their steps; samples are apart.

    A start without a stop before it is marked: the previous process was killed. Without recorded
    events, existing checkpoints count as saves.
    """
    found: list[dict[str, Any]] = []
    running, layout = False, None
    for event in run.events:
        kind = event["event"]
        if kind in ("sample", "first_step"):
            continue
        one = {"kind": kind, "step": event["step"], "time": event.get("time")}
        if kind == "start":
            now = (_mapping(event, "layout"), event.get("device"))
            changed = layout is not None and now != layout
            one |= {
                "kind": "resume" if event["step"] else "start",
                "killed": running,
                "dropped": event.get("dropped_rows", 0),
                "layout": _layout(*now),
                "before": _layout(*layout) if changed and layout else None,
            }
            layout = now
        if kind == "stop":
            one["error"] = event.get("error")
        running = (running or kind == "start") and kind != "stop"
        found.append(one)
    if not run.events:
        for path in sorted(run.directory.glob("checkpoints/step-*")):
            if (number := path.name.removeprefix("step-")).isdecimal():
                found.append({"kind": "save", "step": int(number), "time": None})
    for one in found:
        one["tokens"] = _tokens_at(one["step"], columns)
    return list(_newest(found))


def _newest(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    left = Counter(event["kind"] for event in events)
    for event in events:
        if left[event["kind"]] <= MOST_EVENTS:
            yield event
        left[event["kind"]] -= 1


def _tokens_at(step: int, columns: Columns) -> float | None:
    if "tokens" not in columns:
        return None
    steps = np.concatenate([[0.0], columns["step"]])
    tokens = np.concatenate([[0.0], np.nan_to_num(columns["tokens"])])
    return float(np.interp(step, steps, tokens))


def _layout(layout: Mapping[str, Any], device: Any) -> str:
    shared = " × ".join(f"{axis} {ranks}" for axis, ranks in layout.items())
    return f"{shared or '1 rank'} of {device or 'unknown device'}"


def _samples(run: Run) -> list[dict[str, Any]]:
    """Return the samples of the curve, without those that a later resume superseded."""
    found: dict[int, dict[str, Any]] = {}
    for event in run.events:
        if event["event"] == "start":
            found = {step: sample for step, sample in found.items() if step <= event["step"]}
        if event["event"] == "sample" and type(event.get("text")) is str:
            text = event["text"][:LONGEST_SAMPLE]
            found[event["step"]] = {"step": event["step"], "text": text}
    return [found[step] for step in sorted(found)]


# --- Specs -----------------------------------------------------------------------------------


def differences(specs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the keys whose values differ between specs, in the order of the first spec.

    Each entry has the dotted `key` and its `values`, one text for each spec, None where a spec
    lacks the key.

    specs: specs as parsed TOML.
    """
    tables = [_flat(spec) for spec in specs]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [{"key": key, "values": [table.get(key) for table in tables]} for key in keys]
    return [row for row in rows if any(value != row["values"][0] for value in row["values"])]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return dotted keys and their values as text; entries of a list of tables by their names."""
    found: dict[str, str] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= _flat(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            for number, one in enumerate(value):
                found |= _flat(one, f"{name}.{one.get('name', number)}.")
        else:
            found[name] = _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return f'"{value}"' if isinstance(value, str | Path) else str(value)


def _mapping(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}
