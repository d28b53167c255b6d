"""Find the position of every key and value of a TOML document.

The document is parsed by `tomllib`; the scanner here reads text that `tomllib` accepts, so it only
finds where keys and values begin and end, without validating them.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass

from llamac.spec.validation.errors import Location, Path

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
)

Span = tuple[int, int]
"""Character range [begin, end) of a text."""


@dataclass(frozen=True)
class Place:
    """Locations of a key and its value. Both are a table's header, or all of an array's element."""

    key: Location
    value: Location


def scan(text: str, file: str) -> dict[Path, Place]:
    r"""Return the place of every key, table and array element of a document, by path.

    text: valid TOML without `\r\n`. file: name of the file in the locations.
    """
    lines = Lines(text, file)
    return {
        path: Place(lines.locate(*key), lines.locate(*value))
        for path, (key, value) in spans(text).items()
    }


def spans(text: str) -> dict[Path, tuple[Span, Span]]:
    """Return the character ranges [begin, end) of each key and its value in valid TOML, by path."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.spans


class Lines:
    """Converter of positions in a text to `Location`s. file: name of the file in them."""

    def __init__(self, text: str, file: str) -> None:
        self._lines, self._file = text.split("\n"), file
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def locate(self, start: int, end: int) -> Location:
        """Return the location of text[start:end] or, if it has several lines, of its first line."""
        line = bisect_right(self._starts, start)
        begin, source = self._starts[line - 1], self._lines[line - 1]
        length = max(1, min(end, begin + len(source)) - start)
        return Location(self._file, line, start - begin + 1, length, source)

    def locate_character(self, line: int, column: int) -> Location:
        """Return the location of a character. line, column: its position, counted from 1."""
        line = min(line, len(self._starts))
        start = self._starts[line - 1] + column - 1
        return self.locate(start, start + 1)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.pos = text, 0
        self.spans: dict[Path, tuple[Span, Span]] = {}
        self._entries: dict[Path, int] = {}  # arrays of tables → their latest index

    def document(self) -> None:
        table: Path = ()
        self._skip(_BLANK)
        while self.pos < len(self.text):
            if self.text[self.pos] == "[":
                table = self._header()
            else:
                self._assignment(table)
            self._skip(_BLANK)

    def _header(self) -> Path:
        start, array = self.pos, self.text.startswith("[[", self.pos)
        self.pos += 2 if array else 1
        self._skip(_SPACE)
        parts, _ = self._key()
        self._skip(_SPACE)
        self.pos += 2 if array else 1
        span = (start, self.pos)
        path = self._within(parts[:-1], span)
        if array:
            path = (*path, parts[-1])
            self._entries[path] = self._entries.get(path, -1) + 1
            self.spans.setdefault(path, (span, span))
            path = (*path, self._entries[path])
        else:
            path = self._latest((*path, parts[-1]))
        self.spans[path] = (span, span)
        return path

    def _within(self, parts: Path, span: Span) -> Path:
        """Return the path of a header's parents: in an array of tables, its latest entry."""
        path: Path = ()
        for part in parts:
            path = self._latest((*path, part))
            self.spans.setdefault(path, (span, span))
        return path

    def _latest(self, path: Path) -> Path:
        return (*path, self._entries[path]) if path in self._entries else path

    def _assignment(self, table: Path) -> None:
        parts, span = self._key()
        self._skip(_SPACE)
        self.pos += 1  # =
        self._skip(_SPACE)
        path = table
        for part in parts[:-1]:
            path = (*path, part)
            self.spans.setdefault(path, (span, span))
        path = (*path, parts[-1])
        self.spans[path] = (span, self._value(path))

    def _key(self) -> tuple[Path, Span]:
        """Return a dotted key's parts, and where it stands."""
        start, parts = self.pos, []
        while True:
            begin = self.pos
            if bare := _BARE_KEY.match(self.text, self.pos):
                self.pos = bare.end()
                parts.append(bare.group())
            else:
                self._skip(_STRING)
                parts.append(tomllib.loads("key = " + self.text[begin : self.pos])["key"])
            end = self.pos
            self._skip(_SPACE)
            if not self.text.startswith(".", self.pos):
                return tuple(parts), (start, end)
            self.pos += 1
            self._skip(_SPACE)

    def _value(self, path: Path) -> Span:
        start = self.pos
        match self.text[start]:
            case '"' | "'":
                self._skip(_STRING)
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case _:
                self._skip(_SCALAR)
                self.pos = start + len(self.text[start : self.pos].rstrip())
        return start, self.pos

    def _array(self, path: Path) -> None:
        self.pos += 1
        index = 0
        while not self._closes("]"):
            element = (*path, index)
            span = self._value(element)
            self.spans[element] = (span, span)
            index += 1

    def _inline_table(self, path: Path) -> None:
        self.pos += 1
        while not self._closes("}"):
            self._assignment(path)

    def _closes(self, bracket: str) -> bool:
        """Skip blanks, commas and `bracket`; return whether the bracket was there."""
        self._skip(_BLANK)
        if self.text.startswith(",", self.pos):
            self.pos += 1
            self._skip(_BLANK)
        closed = self.text.startswith(bracket, self.pos)
        self.pos += closed
        return closed

    def _skip(self, pattern: re.Pattern[str]) -> None:
        if found := pattern.match(self.text, self.pos):
            self.pos = found.end()
