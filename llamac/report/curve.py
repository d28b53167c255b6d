"""Downsampling of curves for display, by minimum, maximum and mean of ranges of rows."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from llamac.report.metrics_file import Columns

POINTS = 2000  # more than a wide chart has pixels of
AXES = ("step", "tokens")
CONSTANT = ("predicted_step_seconds", "predicted_peak_memory_bytes")  # drawn as levels
SPARSE = ("validation_loss", "skipped_steps")  # in few rows: listed row by row
NO_CURVE = {*AXES, *CONSTANT, *SPARSE}
EVALUATED = "eval/"  # prefix of the results of tasks: eval/<task>/<metric>


def curve(columns: Columns, points: int = POINTS) -> dict[str, Any]:
    """Return a run's metrics over its steps as JSON values, downsampled to at most `points` points.

    The metrics of `NO_CURVE` and task results (`eval/`) are left out.

    Keys of the result:
    rows: number of rows before downsampling.
    step, tokens, hours: at the last row of each point; hours are accumulated training time, and
    tokens null if they were not recorded.
    from: step of the first row of each point.
    series: by metric, `mean` and, if downsampled, `low` and `high`; null where a point has no
    value.
    """
    steps = columns.get("step", np.empty(0))
    count = len(steps)
    if not count:
        return {"rows": 0, "step": [], "from": [], "tokens": [], "hours": [], "series": {}}
    begins = np.unique(np.linspace(0, count, min(points, count), endpoint=False).astype(int))
    ends = np.append(begins[1:], count) - 1
    seconds = np.nan_to_num(columns.get("step_seconds", np.zeros(count)))
    names = [name for name in columns if name not in NO_CURVE and not name.startswith(EVALUATED)]
    return {
        "rows": count,
        "step": numbers(steps[ends]),
        "from": numbers(steps[begins]),
        "tokens": numbers(columns["tokens"][ends]) if "tokens" in columns else None,
        "hours": numbers(np.cumsum(seconds)[ends] / 3600, 7),
        "series": {name: _series(columns[name], begins) for name in names},
    }


def _series(values: np.ndarray, begins: np.ndarray) -> dict[str, Any]:
    if len(begins) == len(values):
        return {"mean": numbers(values)}
    known = ~np.isnan(values)
    counts = np.add.reduceat(known, begins, dtype=np.int64)
    sums = np.add.reduceat(np.where(known, values, 0.0), begins)
    with np.errstate(invalid="ignore"):
        means = np.where(counts > 0, sums / counts, math.nan)
    return {
        "mean": numbers(means, 7),
        "low": numbers(np.fmin.reduceat(values, begins)),
        "high": numbers(np.fmax.reduceat(values, begins)),
    }


def numbers(values: np.ndarray, digits: int | None = None) -> list[float | int | None]:
    """Convert a float array [n] to JSON numbers: whole ones to int, NaN to None (null).

    digits: significant digits of numbers that are not whole; None keeps them exactly.
    """
    found: list[float | int | None] = []
    for value in values.tolist():
        if math.isnan(value):
            found.append(None)
        elif value.is_integer() and abs(value) < 1e15:
            found.append(int(value))
        else:
            found.append(float(f"{value:.{digits}g}") if digits else value)
    return found


def extremes(values: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Return ascending indices, int [m], of at most `points` + 2 values that keep a curve's shape.

    They are all indices of up to `points` values. Of more, they are the first, the last, and the
    minimum and maximum of each of `points // 2` ranges.

    values: float [n], without NaN.
    """
    count = len(values)
    if count <= points:
        return np.arange(count)
    edges = np.linspace(0, count, points // 2 + 1).astype(int)
    indices = {0, count - 1}
    for begin, end in pairwise(edges):
        indices |= {
            begin + int(values[begin:end].argmin()),
            begin + int(values[begin:end].argmax()),
        }
    return np.array(sorted(indices))
