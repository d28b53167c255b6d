"""Route the lines between boxes orthogonally, so that lines of two values share no segment.

Vertical segments run in lanes of the gutters between columns, horizontal ones between rows. If a
horizontal segment finds no space, the row below it is moved down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llamac.inspect.drawing.place import Placement, Rect, place
from llamac.inspect.drawing.sheet import FORWARD, Column, Edge, Sheet

APART = 6.0  # distance between parallel segments
MARGIN = 8.0  # distance from a row's boxes to a horizontal segment

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Stop:
    """A corner or an end of a line.

    at: an edge or the middle of a column, or a lane of a gutter; with `index` and `lane` it stands
    for an x coordinate, which is known once the gutters have their widths.
    index: number of the column or, for a lane, of the gutter.
    lane: number of the lane in its gutter, from the left; 0 at a column. y: in pixels.
    """

    at: Literal["left", "right", "middle", "lane"]
    index: int
    lane: int
    y: float


@dataclass(frozen=True)
class Line:
    """The drawn path of an edge. stops: its ends and corners, from source to target."""

    edge: Edge
    stops: tuple[Stop, ...]


@dataclass(frozen=True)
class Routing:
    """Routes of all lines of a diagram, with the placement of its boxes.

    lanes: number of lanes in each gutter; gutter i is to the left of column i, the last one to the
    right of all columns.
    """

    placement: Placement
    lines: tuple[Line, ...]
    lanes: tuple[int, ...]


def route(sheet: Sheet, columns: Sequence[Column]) -> Routing:
    """Place a diagram's boxes and route its lines, adding space between rows if needed.

    columns: all columns of the image, from left to right.
    """
    extra: dict[int, float] = {}
    while True:
        router = _Router(sheet, columns, place(sheet, columns, extra))
        lines = tuple(router.run())
        if not router.crowded:
            return Routing(router.placement, lines, tuple(map(len, router.lanes)))
        for row in router.crowded:
            extra[row] = extra.get(row, 0.0) + 2 * APART


@dataclass
class _Router:
    sheet: Sheet
    columns: Sequence[Column]
    placement: Placement
    crowded: set[int] = field(default_factory=set)
    # Horizontal segments: y, first and last slot (gutter g is 2g, column c is 2c + 1), value.
    level: list[tuple[float, int, int, str]] = field(default_factory=list)
    # Vertical segments by gutter and lane: first and last y, value.
    lanes: list[list[list[tuple[float, float, str]]]] = field(default_factory=list)
    exits: dict[tuple[str, Side], float] = field(default_factory=dict)

    def run(self) -> Iterator[Line]:
        self.lanes = [[] for _ in range(len(self.columns) + 1)]
        found: dict[Edge, tuple[Stop, ...]] = {}
        for edge in self._in_order():
            found[edge] = self._stops(edge)
        return (Line(edge, found[edge]) for edge in self.sheet.edges)

    def _ends(self, edge: Edge) -> tuple[Rect, Rect]:
        return self.placement.rects[edge.source], self.placement.rects[edge.target]

    def _in_order(self) -> list[Edge]:
        """Return lines by distance of columns, then by length, so that short lines stay near boxes.

        The longest line of a value comes first; its other lines share that line's lane.
        """

        def across(edge: Edge) -> int:
            one, two = self._ends(edge)
            return abs(one.column - two.column)

        def along(edge: Edge) -> float:
            one, two = self._ends(edge)
            return abs(one.middle - two.middle)

        reach: dict[tuple[int, str], float] = {}
        for edge in self.sheet.edges:
            key = across(edge), edge.source
            reach[key] = max(reach.get(key, 0.0), along(edge))
        return sorted(
            self.sheet.edges,
            key=lambda e: (across(e), reach[across(e), e.source], e.source, -along(e)),
        )

    def _stops(self, edge: Edge) -> tuple[Stop, ...]:
        source, target = self._ends(edge)
        if source.column == target.column:
            return self._upright(source, target) or self._around(edge, source, target)
        for attempt in (self._straight, self._bent, self._channel):
            stops = attempt(edge, source, target)
            if stops:
                return stops
        raise AssertionError("a channel always has room, or is given some")

    def _upright(self, source: Rect, target: Rect) -> tuple[Stop, ...]:
        """Route a line straight to the next box of its column."""
        down = source.bottom < target.top
        top, bottom = (source.bottom, target.top) if down else (target.bottom, source.top)
        for rect in self.placement.rects.values():
            if rect.column == source.column and rect.top < bottom and rect.bottom > top:
                return ()
        ends = (top, bottom) if down else (bottom, top)
        return tuple(Stop("middle", source.column, 0, y) for y in ends)

    def _around(self, edge: Edge, source: Rect, target: Rect) -> tuple[Stop, ...]:
        """Route a line out at one side of a column, past the boxes between, and in again."""
        side: Side = "left" if self.columns[source.column][0] == FORWARD else "right"
        gutter = source.column + (side == "right")
        start = self._exit(edge, source, side, (2 * gutter, 2 * gutter), target.middle)
        end = self._entry(edge, target, (2 * gutter, 2 * gutter), source.middle)
        lane = self._lane(gutter, start, end, edge.source)
        return (
            Stop(side, source.column, 0, start),
            Stop("lane", gutter, lane, start),
            Stop("lane", gutter, lane, end),
            Stop(side, target.column, 0, end),
        )

    def _straight(self, edge: Edge, source: Rect, target: Rect) -> tuple[Stop, ...]:
        """Route a level line from side to side."""
        out, into, first, last = _sides(source, target)
        low = max(source.ports[0], target.ports[0])
        high = min(source.ports[1], target.ports[1])
        if low > high + 0.1:
            return ()
        known = self.exits.get((edge.source, out))
        wishes = [known] if known is not None and low <= known <= high else []
        span = _span(2 * first, 2 * last)
        for y in [*wishes, *_outwards((low + high) / 2, low, high)]:
            if self._free(y, span, edge.source) and self._clear(y, source.column, target.column):
                self._take(y, span, edge.source)
                self.exits.setdefault((edge.source, out), y)
                return Stop(out, source.column, 0, y), Stop(into, target.column, 0, y)
        return ()

    def _bent(self, edge: Edge, source: Rect, target: Rect) -> tuple[Stop, ...]:
        """Route a line with one vertical part, next to one of the two boxes."""
        out, into, first, last = _sides(source, target)
        ends = (2 * first, 2 * first), _span(2 * first, 2 * last)
        for gutter, spans in ((first, ends), (last, (ends[1], (2 * last, 2 * last)))):
            if gutter == first:
                start = self._exit_y(edge, source, out, spans[0], target.middle)
                end = self._entry_y(edge, target, spans[1], source.middle, source.column)
            else:
                start = self._exit_y(edge, source, out, spans[0], target.middle, target.column)
                end = self._entry_y(edge, target, spans[1], source.middle)
            if start is None or end is None:
                continue
            self._leave(edge, out, start, spans[0])
            self._take(end, spans[1], edge.source)
            lane = self._lane(gutter, start, end, edge.source)
            return (
                Stop(out, source.column, 0, start),
                Stop("lane", gutter, lane, start),
                Stop("lane", gutter, lane, end),
                Stop(into, target.column, 0, end),
            )
        return ()

    def _channel(self, edge: Edge, source: Rect, target: Rect) -> tuple[Stop, ...]:
        """Route a line past the boxes between, through the gap between two rows."""
        out, into, first, last = _sides(source, target)
        start = self._exit(edge, source, out, (2 * first, 2 * first), target.middle)
        end = self._entry(edge, target, (2 * last, 2 * last), source.middle)
        between = self._between_rows(edge, source, target, _span(2 * first, 2 * last))
        here = self._lane(first, start, between, edge.source)
        there = self._lane(last, between, end, edge.source)
        return (
            Stop(out, source.column, 0, start),
            Stop("lane", first, here, start),
            Stop("lane", first, here, between),
            Stop("lane", last, there, between),
            Stop("lane", last, there, end),
            Stop(into, target.column, 0, end),
        )

    def _between_rows(self, edge: Edge, source: Rect, target: Rect, span: tuple[int, int]) -> float:
        rows = self.placement.rows
        row = next(i for i, (top, bottom) in enumerate(rows) if top <= target.middle <= bottom)
        above = source.middle < target.middle or row == len(rows) - 1
        row = max(row if above else row + 1, 1)
        low, high = rows[row - 1][1] + MARGIN, rows[row][0] - MARGIN
        for y in _outwards(high if above else low, low, high):
            if self._free(y, span, edge.source):
                self._take(y, span, edge.source)
                return y
        self.crowded.add(row)
        return high

    # -- ends of lines -----------------------------------------------------------------------

    def _exit(
        self, edge: Edge, box: Rect, side: Side, span: tuple[int, int], towards: float
    ) -> float:
        y = self._exit_y(edge, box, side, span, towards)
        y = box.middle if y is None else y
        self._leave(edge, side, y, span)
        return y

    def _leave(self, edge: Edge, side: Side, y: float, span: tuple[int, int]) -> None:
        self.exits.setdefault((edge.source, side), y)
        self._take(y, span, edge.source)

    def _entry(self, edge: Edge, box: Rect, span: tuple[int, int], towards: float) -> float:
        y = self._entry_y(edge, box, span, towards)
        y = box.middle if y is None else y
        self._take(y, span, edge.source)
        return y

    def _exit_y(
        self,
        edge: Edge,
        box: Rect,
        side: Side,
        span: tuple[int, int],
        towards: float,
        past: int | None = None,
    ) -> float | None:
        """Return the y at which a value leaves its box: that of its other lines, or a free one."""
        known = self.exits.get((edge.source, side))
        wishes = [known] if known is not None else []
        return self._port(edge, box, span, towards, past, wishes)

    def _entry_y(
        self,
        edge: Edge,
        box: Rect,
        span: tuple[int, int],
        towards: float,
        past: int | None = None,
    ) -> float | None:
        return self._port(edge, box, span, towards, past, [])

    def _port(
        self,
        edge: Edge,
        box: Rect,
        span: tuple[int, int],
        towards: float,
        past: int | None,
        wishes: list[float],
    ) -> float | None:
        low, high = box.ports
        wish = min(max(towards, low), high)
        for apart in (2 * APART, APART):
            for y in [*wishes, *_outwards(wish, low, high)]:
                clear = past is None or self._clear(y, past, box.column)
                if clear and self._free(y, span, edge.source, apart):
                    return y
        return None

    # -- occupied space ----------------------------------------------------------------------

    def _clear(self, y: float, one: int, other: int) -> bool:
        """Return whether no box lies at this height in the columns between two."""
        between = range(min(one, other) + 1, max(one, other))
        return not any(
            rect.column in between and rect.top - APART < y < rect.bottom + APART
            for rect in self.placement.rects.values()
        )

    def _free(self, y: float, span: tuple[int, int], net: str, apart: float = APART) -> bool:
        return all(
            whose == net or abs(y - other) >= apart or span[1] < start or end < span[0]
            for other, start, end, whose in self.level
        )

    def _take(self, y: float, span: tuple[int, int], net: str) -> None:
        self.level.append((y, *span, net))

    def _lane(self, gutter: int, start: float, end: float, net: str) -> int:
        """Return a lane that is free between two heights, the value's own lane if possible."""
        low, high = min(start, end), max(start, end)
        lanes = self.lanes[gutter]
        own = [i for i, taken in enumerate(lanes) if any(whose == net for *_, whose in taken)]
        for index in [*own, *range(len(lanes))]:
            if all(
                whose == net or high + APART < top or bottom + APART < low
                for top, bottom, whose in lanes[index]
            ):
                lanes[index].append((low, high, net))
                return index
        lanes.append([(low, high, net)])
        return len(lanes) - 1


def _sides(source: Rect, target: Rect) -> tuple[Side, Side, int, int]:
    """Return the sides at which a line leaves and enters, and the gutters there."""
    if source.column < target.column:
        return "right", "left", source.column + 1, target.column
    return "left", "right", source.column, target.column + 1


def _span(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def _outwards(wish: float, low: float, high: float) -> Iterator[float]:
    """Yield heights from `low` to `high`, nearest to the desired one first."""
    yield wish
    step = 1
    while wish - step * APART >= low or wish + step * APART <= high:
        if wish - step * APART >= low:
            yield wish - step * APART
        if wish + step * APART <= high:
            yield wish + step * APART
        step += 1
