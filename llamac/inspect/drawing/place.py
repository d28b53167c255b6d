"""Place the boxes of a diagram. Units are pixels; y grows downwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamac.inspect.drawing.sheet import RECOMPUTED, SAVED, Box, Column, Sheet

CHARACTER = 0.62  # width of a monospaced letter, as a fraction of the font's size
TITLE, TEXT, LINE = 11.0, 11.0, 15.0
PADDING = (10.0, 7.0)  # left and right of a box's text, above and below it
ROW_GAP = 28.0  # between rows
ROUND = ("end", "kept")  # kinds of boxes with wide rounded corners


@dataclass(frozen=True)
class Rect:
    """Position of a box: its column, from 0 at the left, and vertical extent in pixels.

    The x of a column is set later, when gutters have their widths.
    """

    column: int
    top: float
    bottom: float
    round: bool  # rounded corners leave less room for lines

    @property
    def ports(self) -> tuple[float, float]:
        """Interval of y in which lines may touch the box's sides, in pixels."""
        margin = 10.0 if self.round else 8.0
        return self.top + margin, self.bottom - margin

    @property
    def middle(self) -> float:
        """The y of the box's centre, in pixels."""
        return (self.top + self.bottom) / 2


@dataclass(frozen=True)
class Placement:
    """Positions of a diagram's boxes, in pixels.

    rects: column and vertical extent of each box, by the box's key.
    rows: (top, bottom) of each row, from the top. height: height of the diagram.
    """

    rects: dict[str, Rect]
    rows: tuple[tuple[float, float], ...]
    height: float


def columns_of(sheets: Sequence[Sheet]) -> dict[Column, float]:
    """Return the width in pixels of each column that any diagram uses, from left to right."""
    widths: dict[Column, float] = {}
    for sheet in sheets:
        for box in sheet.boxes:
            widths[box.column] = max(widths.get(box.column, 0.0), width_of(box))
    return dict(sorted(widths.items()))


def width_of(box: Box) -> float:
    """Return a box's width in pixels: its longest line and padding; two spaces precede a type."""
    title = len(box.title) * TITLE
    lines = [(len(left) + len(right) + 2 * bool(right)) * TEXT for left, right in box.lines]
    return max(title, *lines) * CHARACTER + 2 * PADDING[0]


def heights_of(sheet: Sheet) -> dict[str, float]:
    """Return each box's height in pixels, by key: its text, and room for lines of other columns."""
    column = {box.key: box.column for box in sheet.boxes}
    lines = Counter(
        edge.target for edge in sheet.edges if column[edge.source] != column[edge.target]
    )
    return {
        box.key: max(LINE * (1 + len(box.lines)) + 2 * PADDING[1], 16.0 + 9.0 * lines[box.key])
        for box in sheet.boxes
    }


def place(sheet: Sheet, columns: Sequence[Column], extra: Mapping[int, float]) -> Placement:
    """Place the rows of a diagram from top to bottom, each as high as its highest stack of boxes.

    columns: all columns, from left to right. extra: additional pixels above a row, by row number.
    """
    stacks: dict[int, dict[Column, list[Box]]] = {}
    for box in sheet.boxes:
        stacks.setdefault(box.row, {}).setdefault(box.column, []).append(box)
    heights = heights_of(sheet)

    def high(stack: Sequence[Box]) -> float:
        gaps = _space(stack[0].column) * (len(stack) - 1)
        return sum(heights[box.key] for box in stack) + gaps

    rects: dict[str, Rect] = {}
    rows = []
    y = 0.0
    for row in sorted(stacks):
        y += (ROW_GAP if row else 0.0) + extra.get(row, 0.0)
        height = max(map(high, stacks[row].values()))
        for column, stack in stacks[row].items():
            top = y + (height - high(stack)) / 2
            down = column[0] <= RECOMPUTED  # other columns run upwards: the first box is lowest
            for box in stack if down else reversed(stack):
                bottom = top + heights[box.key]
                rects[box.key] = Rect(columns.index(column), top, bottom, box.kind in ROUND)
                top = bottom + _space(column)
        rows.append((y, y + height))
        y += height
    return Placement(rects, tuple(rows), y)


def _space(column: Column) -> float:
    """Return the gap between boxes of a row: room for an arrow, except between saved values."""
    return 8.0 if column[0] == SAVED else 14.0
