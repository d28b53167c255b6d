"""Tables and paragraphs of text, within the width of a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rich.console import Console
from rich.text import Text

WIDE = 1000
"""Characters of a line where nothing limits it: in a file, or for another program."""
GAP = "  "
LEAST = 8  # characters of a text column whose cells are wrapped
HEAD, TOTAL, TITLE, NOTE = "head", "total", "title", "note"  # styles of llamac.look.console

Cell = str | Text  # a Text has one style, for the whole cell


class Block(Protocol):
    """Interface of objects, such as tables, that format themselves as lines of text.

    width: in characters; a number that is wider is not broken.
    """

    def lines(self, width: int) -> Iterator[Text]: ...


Part = Cell | Block
"""A paragraph, or an object such as a table that formats itself."""


@dataclass(frozen=True)
class TextTable:
    """A table with a title above it.

    title: "" for none. head: names of the columns, all empty for none. rows: cells of each row.
    align: `<` or `>` for each column; numbers (`>`) are never wrapped. total: whether the last row
    is a total. note: text below the table, "" for none. spare: how many of the last columns are
    left out, with a note, where there is no room for them.
    """

    title: Cell
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str
    total: bool = False
    note: str = ""
    spare: int = 0

    def lines(self, width: int = WIDE) -> Iterator[Text]:
        """Yield the title, the columns indented by two, and the note, as lines of text.

        If the columns exceed `width` characters, spare ones are left out, then headings of numbers
        are wrapped, then the widest texts.
        """
        wanted = sum(len(GAP) + max(map(len, column)) for column in zip(*self._all(), strict=True))
        if self.spare and wanted > width:
            yield from self._narrowed(wanted).lines(width)
            return
        if self.title:
            yield from hanging(self.title, width, TITLE)
        widths = _widths(self._all(), self.align, width - len(GAP) * len(self.align))
        if any(self.head):
            yield from self._row([Text(name, HEAD) for name in self.head], widths)
        for number, row in enumerate(self.rows, 1):
            last = self.total and number == len(self.rows)
            yield from self._row([Text(str(one), TOTAL) for one in row] if last else row, widths)
        for line in self.note.splitlines():
            yield from hanging(f"{GAP}{line.strip()}", width, NOTE)

    def _all(self) -> list[Sequence[Cell]]:
        return [self.head, *self.rows]

    def _row(self, row: Sequence[Cell], widths: Sequence[int]) -> Iterator[Text]:
        cells = [_broken(str(cell), most) for cell, most in zip(row, widths, strict=True)]
        styles = [cell.style if isinstance(cell, Text) else "" for cell in row]
        for number in range(max(map(len, cells))):
            line = Text()
            for cell, side, most, style in zip(cells, self.align, widths, styles, strict=True):
                part = cell[number] if number < len(cell) else ""
                line.append(GAP)
                line.append(part.rjust(most) if side == ">" else part.ljust(most), style)
            line.rstrip()
            yield line

    def _narrowed(self, width: int) -> TextTable:
        """Return the table without its spare columns, with a note that says so."""
        columns = len(self.head) - self.spare
        hidden = f"For {', '.join(self.head[columns:])}, make the terminal {width} columns wide."
        return replace(
            self,
            head=self.head[:columns],
            align=self.align[:columns],
            rows=[row[:columns] for row in self.rows],
            note=f"{self.note}\n{hidden}" if self.note else hidden,
            spare=0,
        )


def hanging(text: Cell, width: int, style: str = "") -> Iterator[Text]:
    """Yield the lines of a text wrapped between words, with continuations indented by two more.

    width: greatest length of a line in characters. style: style of a plain `str`; a Text has its
    own.
    """
    whole = text if isinstance(text, Text) else Text(text, style)
    for line in whole.split("\n", allow_blank=True):
        if len(line) <= width:
            yield line
            continue
        indent = len(line.plain) - len(line.plain.lstrip())
        parts = line[indent:].wrap(_MEASURE, width - indent - 2)
        for number, part in enumerate(parts):
            part.rstrip()
            yield Text(" " * (indent + 2 * (number > 0))) + part


def text_lines(parts: Iterable[Part], width: int = WIDE) -> Iterator[Text]:
    """Yield the lines of paragraphs and blocks, wrapped to `width` characters.

    An empty line precedes each block, unless the block comes first.
    """
    for number, part in enumerate(parts):
        if isinstance(part, str | Text):
            yield from hanging(part, width)
            continue
        if number:
            yield Text()
        yield from part.lines(width)


def plain_text(parts: Iterable[Part], width: int = WIDE) -> str:
    """Return paragraphs and blocks as unstyled text, wrapped to `width` characters."""
    return "".join(f"{line.plain.rstrip()}\n" for line in text_lines(parts, width))


_MEASURE = Console(width=WIDE, color_system=None)  # knows how wide characters are


def _widths(rows: Sequence[Sequence[Cell]], align: str, room: int) -> list[int]:
    """Return the width of each column, in total at most `room` if possible."""
    columns = [[str(cell) for cell in column] for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    words = [
        max(len(part) for text in column for part in [*_parts(text), ""])
        if side == "<"
        else max(len(part) for part in [*column[0].split(), *column[1:], ""])
        for column, side in zip(columns, align, strict=True)
    ]
    # Headings of numbers are wrapped first, then texts between words, then texts anywhere.
    for side, least in ((">", words), ("<", words), ("<", [LEAST] * len(align))):
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


def _broken(text: str, width: int) -> list[str]:
    """Return the lines of a cell, none wider than `width`."""
    lines = [""]
    for part in _parts(text) if len(text) > width else [text]:
        if lines[-1] and len((lines[-1] + part).rstrip()) > width:
            lines.append("")
        lines[-1] += part
        while len(lines[-1].rstrip()) > width > 0:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines]
