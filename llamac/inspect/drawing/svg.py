"""Draw regions as SVG, without a library. The same Program always gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from torch import fx

from llamac.inspect.drawing import style
from llamac.inspect.drawing.crossings import reduce_crossings
from llamac.inspect.drawing.place import LINE, PADDING, TITLE, Rect, columns_of
from llamac.inspect.drawing.route import APART, Line, Routing, Stop, route
from llamac.inspect.drawing.sheet import (
    BACKWARD,
    FORWARD,
    RECOMPUTED,
    SAVED,
    WEIGHTS,
    Box,
    Column,
    Sheet,
    sheet_of,
)
from llamac.inspect.memory import program_memory, readable_bytes, stream_bytes
from llamac.ir.graph import type_of
from llamac.ir.printer import graph_lines
from llamac.ir.program import Program, Region
from llamac.ir.values import layer_count

BORDER = 28.0
GUTTER = 26.0  # between columns where no line runs upright
HEADING = 80.0  # above each region


def program_svg(program: Program, stage: str, region_name: str | None = None) -> str:
    """Draw a program's regions one below the other, with aligned columns, as an SVG image.

    stage: name of the last pass, for the title.
    region_name: region to draw; None draws all.
    """
    size = _sizes(program)
    regions = [region for region in program.regions.values() if region_name in (None, region.name)]
    sheets = [sheet_of(program, region, _ir_lines(region), size) for region in regions]
    widths = columns_of(sheets)
    routing = [reduce_crossings(route(sheet, list(widths))) for sheet in sheets]
    title, summary = f"{program.name} after {stage}", _summary(program)
    frame = _frame(widths, routing, min_width=max(12.5 * len(title), 7.0 * len(summary)))
    body: list[str] = []
    y = BORDER + 58.0
    for region, sheet, one in zip(regions, sheets, routing, strict=True):
        body += _region(program, region, sheet, one, frame, y)
        y += HEADING + one.placement.height + 40.0
    body += style.legend(BORDER, y, frame.width - 2 * BORDER)
    y += style.legend_height(frame.width - 2 * BORDER) + BORDER
    return "\n".join(
        [
            *style.open_image(frame.width, y, title),
            style.text(BORDER, BORDER + 20, title, "h1"),
            style.text(BORDER, BORDER + 40, summary, "muted"),
            *body,
            "</svg>\n",
        ]
    )


PARTS = {
    "all": (FORWARD, SAVED, RECOMPUTED, WEIGHTS, BACKWARD),
    "forward": (FORWARD, SAVED),
    "backward": (SAVED, RECOMPUTED, WEIGHTS, BACKWARD),
}
"""Columns of a region's drawing that are shown, by the part that is drawn."""


def region_svg(program: Program, region: Region, part: str = "all") -> str:
    """Draw one region as an SVG element of an HTML page, without title and legend.

    Each box is a group with the attribute `data-key`, its `Box.key`; the group of each line has
    `data-from` and `data-to`, the keys of its boxes.

    part: key of `PARTS`.
    """
    whole = sheet_of(program, region, _ir_lines(region), _sizes(program))
    boxes = tuple(box for box in whole.boxes if box.column[0] in PARTS[part])
    shown = {box.key for box in boxes}
    edges = tuple(one for one in whole.edges if {one.source, one.target} <= shown)
    sheet = Sheet(whole.region, boxes, edges)
    widths = columns_of([sheet])
    routing = reduce_crossings(route(sheet, list(widths)))
    frame = _frame(widths, [routing], min_width=0.0)
    top = BORDER + 14.0
    return "".join(
        [
            style.open_embedded(frame.width, top + routing.placement.height + BORDER, region.name),
            *_sheet(sheet, routing, frame, top),
            "</svg>",
        ]
    )


@dataclass(frozen=True)
class _Frame:
    """The x coordinates of columns and of each gutter's first lane."""

    columns: tuple[Column, ...]
    left: tuple[float, ...]
    right: tuple[float, ...]
    lanes: tuple[float, ...]
    width: float

    def x(self, stop: Stop) -> float:
        if stop.at == "lane":
            return self.lanes[stop.index] + stop.lane * 1.5 * APART
        left, right = self.left[stop.index], self.right[stop.index]
        return {"left": left, "right": right, "middle": (left + right) / 2}[stop.at]


def _frame(widths: dict[Column, float], routing: Sequence[Routing], min_width: float) -> _Frame:
    counts = [max(counts) for counts in zip(*(one.lanes for one in routing), strict=True)]
    lefts, rights, lanes = [], [], []
    x = BORDER
    for index, width in enumerate([*widths.values(), 0.0]):
        inner = 0 < index < len(widths)
        room = counts[index] * 1.5 * APART
        lanes.append(x + GUTTER / 2 if inner or index else x)
        x += (
            GUTTER + room if inner else room + (3.0 if room else 0.0) + (GUTTER / 2 if index else 0)
        )
        if index < len(widths):
            lefts.append(x)
            x += width
            rights.append(x)
    width = max(x, BORDER + min_width) + BORDER
    return _Frame(tuple(widths), tuple(lefts), tuple(rights), tuple(lanes), width)


def _ir_lines(region: Region) -> dict[int, str]:
    lines: dict[int, str] = {}
    for direction in ("forward", "backward"):
        if direction == "forward" or region.backward is not None:
            for line, node in graph_lines(region, direction):
                lines[id(node)] = line.strip()
    return lines


def _sizes(program: Program) -> Callable[[fx.Node], str]:
    unit = stream_bytes(program)

    def size(value: fx.Node) -> str:
        nbytes = type_of(value).nbytes(program.symbols)
        return f"{readable_bytes(nbytes)} · {nbytes / unit:.2f} sbh"

    return size


def _summary(program: Program) -> str:
    symbols = " · ".join(f"{name} = {size:,}" for name, size in program.symbols.items())
    return (
        f"{program.parameter_count:,} parameters · {len(program.layers)} layers · {symbols} · "
        f"sbh: batch·seq·dim elements, here {readable_bytes(stream_bytes(program))}"
    )


def _region(
    program: Program, region: Region, sheet: Sheet, routing: Routing, frame: _Frame, top: float
) -> Iterator[str]:
    count = layer_count(region.name, program.layers)
    yield style.text(BORDER, top + 18, region.name + (f" × {count}" if count > 1 else ""), "h2")
    yield style.text(BORDER, top + 35, _about(program, region), "muted")
    yield from _sheet(sheet, routing, frame, top + HEADING)


def _sheet(sheet: Sheet, routing: Routing, frame: _Frame, top: float) -> Iterator[str]:
    used = {frame.columns.index(box.column) for box in sheet.boxes}
    yield from _columns(frame, used, top, routing.placement.height)
    by_source: dict[str, list[Line]] = {}
    for line in routing.lines:
        by_source.setdefault(line.edge.source, []).append(line)
    for lines in by_source.values():  # the halo of one value's lines does not cut its own
        paths = [[(frame.x(stop), top + stop.y) for stop in line.stops] for line in lines]
        yield from (style.halo(path) for path in paths)
        for path, line in zip(paths, lines, strict=True):
            ends = f"data-from={quoteattr(line.edge.source)} data-to={quoteattr(line.edge.target)}"
            yield f"<g {ends}>{style.arrow(path, line.edge.flow)}</g>"
    for box in sheet.boxes:
        yield from _box(box, routing.placement.rects[box.key], frame, top)


def _about(program: Program, region: Region) -> str:
    if region.backward is None:
        return "forward only"
    memory = program_memory(program)
    (one,) = (m for m in memory.regions if m.name == region.name)
    each = " a layer" if one.count > 1 else ""
    text = f"saves {readable_bytes(one.saved)}{each} = {memory.sbh(one.saved):.2f} sbh"
    if one.without_recomputation != one.saved:
        text += f"; without recomputation, {readable_bytes(one.without_recomputation)}"
        text += f" = {memory.sbh(one.without_recomputation):.2f} sbh"
    return text


def _columns(frame: _Frame, used: set[int], top: float, height: float) -> Iterator[str]:
    groups: dict[int, list[int]] = {}
    for index in sorted(used):
        groups.setdefault(frame.columns[index][0], []).append(index)
    for group, members in groups.items():
        left, right = frame.left[members[0]], frame.right[members[-1]]
        if group == SAVED:
            yield style.band(left - 6, top - 8, right - left + 12, height + 16)
        yield style.text((left + right) / 2, top - 14, style.HEADINGS[group], f"head g{group}")


def _box(box: Box, rect: Rect, frame: _Frame, top: float) -> Iterator[str]:
    left, right = frame.left[rect.column], frame.right[rect.column]
    y = top + rect.top
    yield f"<g data-key={quoteattr(box.key)}>"
    if box.hover:
        yield f"<title>{escape(box.hover)}</title>"
    yield from style.rectangle(
        left, y, right - left, rect.bottom - rect.top, box.kind, box.recomputed
    )
    y += PADDING[1] + TITLE
    yield style.text(left + PADDING[0], y, box.title, f"op {box.kind}")
    for names, kind in box.lines:
        y += LINE
        yield style.text(left + PADDING[0], y, names, "name" if kind else "size")
        if kind:
            yield style.text(right - PADDING[0], y, kind, "type")
    yield "</g>"
