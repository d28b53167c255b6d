"""Curves of runs as PNG figures in the style of the LLaMA paper, one file per metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from llamac.plan.render.canvas import Area, Drawing, Label, Point, Polyline, Shape, png
from llamac.report.curve import extremes
from llamac.report.metrics_file import Columns
from llamac.report.recorded_run import Run

WIDTH, HEIGHT = 760.0, 460.0
LEFT, RIGHT, TOP, BOTTOM = 74.0, 18.0, 44.0, 52.0
INK, MUTED, GRID = "#1f2937", "#5b6472", "#e9e6dd"
COLOURS = ("#2f5fb3", "#a84a08", "#0b766c", "#be3455", "#6d3fb8", "#566508", "#0b6480", "#7a5230")
COLUMNS = 600  # stretches of a curve, each with its mean, least and greatest
EARLY = 0.05  # share of the tokens, at the start, whose values do not set the scale
UNITS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand"), (1.0, ""))

FIGURES: dict[str, tuple[str, float, str]] = {  # metric → title, size and name of its unit
    "loss": ("Training loss (dashed: validation)", 1, "nats per token"),
    "lr": ("Learning rate", 1, ""),
    "grad_norm": ("Gradient norm", 1, ""),
    "tokens_per_second": ("Tokens per second", 1, ""),
    "mfu": ("Model FLOPs utilisation", 0.01, "%"),
    "peak_memory_bytes": ("Peak memory", 1e9, "GB"),
    "step_seconds": ("Seconds per step", 1, "s"),
}


def figures(runs: Sequence[Run]) -> Iterator[tuple[str, bytes]]:
    """Yield (metric, PNG file as bytes) for each metric of `FIGURES` that any run has recorded.

    A figure shows the metric of all runs that have it, over tokens; that of the loss also has the
    validation loss.
    """
    tables = [(run.title, run.metrics.newest_rows[0], number) for number, run in enumerate(runs)]
    for name in FIGURES:
        known = [one for one in tables if len(_points(one[1], name)[0])]
        if known:
            yield name, png(_drawing(name, known))


def _points(table: Columns, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens and the values of the rows that have both."""
    if name not in table or "tokens" not in table:
        return np.empty(0), np.empty(0)
    known = ~np.isnan(table[name]) & ~np.isnan(table["tokens"])
    return table["tokens"][known], table[name][known]


def _drawing(name: str, runs: Sequence[tuple[str, Columns, int]]) -> Drawing:
    title, unit, unit_name = FIGURES[name]
    curves = [(label, *_points(table, name), number) for label, table, number in runs]
    last = max(float(tokens[-1]) for _, tokens, _, _ in curves)
    scale, word = next(u for u in UNITS if last >= u[0] or u[0] == 1.0)
    low, high = _range([(tokens, values) for _, tokens, values, _ in curves], last)
    drawing = Drawing(WIDTH, HEIGHT, title)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def at(tokens: float, value: float) -> tuple[float, float]:
        x = LEFT + tokens / (last or 1) * (right - LEFT)
        y = bottom - (value - low) / (high - low) * (bottom - TOP)
        return x, min(max(y, TOP), bottom)

    shapes = drawing.shapes
    for value in ticks(low / unit, high / unit, 6):
        y = at(0, value * unit)[1]
        shapes += [Polyline([(LEFT, y), (right, y)], GRID)]
        shapes += [Label(LEFT - 8, y + 4, _short(value), 12, "end", MUTED)]
    for value in ticks(0, last / scale, 7):
        x = at(value * scale, low)[0]
        shapes += [Polyline([(x, TOP), (x, bottom)], GRID)]
        shapes += [Label(x, bottom + 18, _short(value), 12, "middle", MUTED)]
    drawn = [(*_curve(x, y), COLOURS[number % len(COLOURS)]) for _, x, y, number in curves]
    shapes += [Area([at(*p) for p in band], _pale(colour)) for band, _, colour in drawn if band]
    for _, line, colour in drawn:
        shapes += [Polyline([at(*p) for p in part], colour, 1.4) for part in clip_line(line, high)]
    if name == "loss":
        for _, table, number in runs:
            held_out = _points(table, "validation_loss")
            shapes += _validation(*held_out, COLOURS[number % len(COLOURS)], at)
    shapes += [Polyline([(LEFT, TOP), (LEFT, bottom), (right, bottom)], MUTED)]
    shapes += [Label((LEFT + right) / 2, HEIGHT - 12, f"{word} tokens".strip(), 13, "middle", INK)]
    about = f"{title}, {unit_name}" if unit_name else title
    shapes += [Label(LEFT, 24, about, 15, fill=INK, bold=True)]
    shapes += _names([(label, COLOURS[number % len(COLOURS)]) for label, *_, number in curves])
    return drawing


def _range(curves: Iterable[tuple[np.ndarray, np.ndarray]], last: float) -> tuple[float, float]:
    """Return the smallest and largest value of the axis, with a margin."""
    parts = []
    for tokens, values in curves:
        later = values[tokens >= EARLY * last]
        parts.append(later if len(later) > 4 else values)
    seen = np.concatenate(parts)
    low, high = float(seen.min()), float(seen.max())
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _curve(tokens: np.ndarray, values: np.ndarray) -> tuple[list[Point], list[Point]]:
    """Return the outline of a curve's band and the line of its means, as (tokens, value).

    The band lies between the least and the greatest of each stretch of rows; empty if each is one.
    """
    begins = np.unique(np.linspace(0, len(values), min(COLUMNS, len(values)), False).astype(int))
    ends = np.append(begins[1:], len(values))
    places = tokens[ends - 1].tolist()
    means = (np.add.reduceat(values, begins) / (ends - begins)).tolist()
    line = list(zip(places, means, strict=True))
    if len(begins) == len(values):
        return [], line
    highs = np.maximum.reduceat(values, begins).tolist()
    lows = np.minimum.reduceat(values, begins).tolist()
    upper, lower = zip(places, highs, strict=True), zip(places, lows, strict=True)
    return [*upper, *reversed(list(lower))], line


def clip_line(line: Sequence[Point], high: float) -> list[list[Point]]:
    """Return the parts of a line at or below `high`, cut where it crosses that value.

    line: points (x, y) in order of x, at least one. A part that is a single point has it twice.
    """
    parts: list[list[Point]] = []
    part: list[Point] = []
    for (x0, y0), (x1, y1) in pairwise([line[0], *line]):
        crossing = (x0 + (x1 - x0) * (high - y0) / (y1 - y0), high) if y0 != y1 else (x1, high)
        if y1 <= high:
            part += [(x1, y1)] if y0 <= high else [crossing, (x1, y1)]
        elif y0 <= high:
            parts.append([*part, crossing])
            part = []
    parts.append(part if len(part) != 1 else part * 2)  # a single point is drawn as a dot
    return [part for part in parts if part]


def _validation(
    tokens: np.ndarray, values: np.ndarray, colour: str, at: Callable[[float, float], Any]
) -> Iterator[Shape]:
    """Yield a dashed line through the evaluations, with a square at each."""
    shown = extremes(values, 200) if len(values) else []
    points = [at(float(tokens[i]), float(values[i])) for i in shown]
    for (x0, y0), (x1, y1) in pairwise(points):
        pieces = max(1, round(math.hypot(x1 - x0, y1 - y0) / 10))
        for n in range(pieces):
            ends = (n / pieces, (n + 0.6) / pieces)
            yield Polyline([(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in ends], colour, 1.4)
    for x, y in points:
        yield Area([(x - 3, y - 3), (x + 3, y - 3), (x + 3, y + 3), (x - 3, y + 3)], colour)


def _names(names: Sequence[tuple[str, str]]) -> Iterator[Shape]:
    """Yield the legend, at the upper right."""
    for row, (name, colour) in enumerate(names if len(names) > 1 else []):
        y = TOP + 20 + 20 * row
        yield Label(WIDTH - RIGHT - 40, y, name, 13, "end", INK)
        yield Polyline([(WIDTH - RIGHT - 32, y - 4), (WIDTH - RIGHT - 6, y - 4)], colour, 2.5)


def _pale(colour: str, share: float = 0.25) -> str:
    """Return the opaque colour that equals `colour` with this opacity on the background."""
    parts = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    ground = [int(Drawing(0, 0, "").ground[at : at + 2], 16) for at in (1, 3, 5)]
    mixed = [round(share * p + (1 - share) * g) for p, g in zip(parts, ground, strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers from `low` to `high`, for an axis.

    They are the multiples of 1, 2, 2.5 or 5 times a power of ten; [`low`] if the range is empty.
    """
    raw = (high - low) / count
    if not raw > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _short(value: float) -> str:
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.6g}"
