"""Columns and paragraphs of text, within the width of a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

WIDE = 1000
"""Characters of a line where nothing limits it: in a file, or for another program."""
GAP = "  "
LEAST = 8  # characters of a column whose cells are wrapped


def table(rows: Sequence[Sequence[str]], align: str, width: int = WIDE) -> list[str]:
    """Format rows as lines of columns, indented by two.

    Where they are wider than `width`, headings and then the widest texts are wrapped in their
    column, numbers never.

    align: `<` for texts, `>` for numbers, per column. rows: the first is the heading.
    """
    widths = _widths(rows, align, width - len(GAP) * len(align))
    lines = []
    for row in rows:
        cells = [_wrapped(text, most) for text, most in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            lines.append((GAP + GAP.join(map(_cell, parts, align, widths))).rstrip())
    return lines


def paragraph(text: str, width: int = WIDE, indent: int = 0) -> list[str]:
    """Wrap a text between words; lines after the first are indented by two more."""
    inner = " " * (indent + 2)
    return textwrap.wrap(
        text, width, initial_indent=" " * indent, subsequent_indent=inner, break_long_words=False
    )


def _widths(rows: Sequence[Sequence[str]], align: str, room: int) -> list[int]:
    """Return the width of each column, together no more than `room` where that can be."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    least = [
        max(len(part) for text in column for part in _parts(text))
        if side == "<"
        else max(len(part) for part in [*column[0].split(), *column[1:], ""])
        for column, side in zip(columns, align, strict=True)
    ]
    for side in (">", "<"):  # headings of numbers first
        while sum(widths) > room:
            wide = [
                at
                for at, one in enumerate(align)
                if one == side and widths[at] > max(least[at], LEAST if side == "<" else 0)
            ]
            if not wide:
                break
            widths[max(wide, key=lambda at: widths[at])] -= 1
    return widths


def _parts(text: str) -> list[str]:
    """Split a cell where it may be wrapped: after a space or `_`, before `@`."""
    return [part for part in re.split(r"(?<=[ _])|(?=@)", text) if part]


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for part in _parts(text) if len(text) > width else [text]:
        if lines[-1] and len((lines[-1] + part).rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def _cell(text: str, side: str, width: int) -> str:
    return text.rjust(width) if side == ">" else text.ljust(width)
