"""Read metrics.jsonl into columns of numbers, skipping damaged lines."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from llamac.report.arrow_columns import parse_columns

REGION = 1 << 26  # bytes read at a time
BLOCK = 1 << 22  # bytes parsed at a time where something is damaged
LARGEST = 2**53  # up to here a float64 holds every whole number
NUMBERS = {int, float, type(None)}  # types of a metric's value in JSON

Columns = dict[str, np.ndarray]
"""Values of each metric, float64 [rows]; NaN where a row has no finite number of that name."""


class MetricsFile:
    """The rows of a metrics.jsonl, read incrementally by `refresh`; none before its first call.

    damaged: numbers, from 1, of lines that are not a row of numbers with a step; they are skipped.
    unfinished: whether the last line is incomplete and therefore skipped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reset()

    def _reset(self) -> None:
        self.damaged: list[int] = []
        self.unfinished = False
        self._parts: dict[str, list[np.ndarray]] = {}
        self._rows = self._lines = self._offset = 0
        self._inode: int | None = None
        self._curve: tuple[Columns, int] | None = None

    def refresh(self) -> bool:
        """Read the lines added since the last call; return whether there are any.

        A file that was replaced is read from its start, and True returned.
        Raises OSError if the file cannot be read.
        """
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            replaced = status.st_ino != self._inode or status.st_size < self._offset
            if replaced:  # a run that resumes writes the file anew
                self._reset()
                self._inode = status.st_ino
            before = (self._lines, self.unfinished)
            file.seek(self._offset)
            rest = b""
            while block := file.read(REGION):
                whole, newline, rest = (rest + block).rpartition(b"\n")
                if newline:
                    self._offset += len(whole) + 1
                    self._parse(whole)
            self.unfinished = bool(rest)
        return replaced or before != (self._lines, self.unfinished)

    @property
    def newest_rows(self) -> tuple[Columns, int]:
        """(Columns ordered by step without superseded rows, number of superseded rows).

        A row supersedes earlier rows with the same or a later step, which a resumed run leaves
        behind.
        """
        if self._curve is None:
            self._curve = self._without_superseded()
        return self._curve

    def _without_superseded(self) -> tuple[Columns, int]:
        if not self._rows:
            return {}, 0
        found = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        self._parts = {name: [values] for name, values in found.items()}
        steps = found["step"]
        least_after = np.minimum.accumulate(steps[::-1])[::-1]
        last = np.append(steps[:-1] < least_after[1:], True)
        if last.all():
            return found, 0
        return {name: values[last] for name, values in found.items()}, int((~last).sum())

    def _parse(self, text: bytes) -> None:
        """Add lines, all at once if none is damaged, which is several times faster."""
        found = parse_columns(text, LARGEST)
        if found is not None:
            self._extend(found, len(found["step"]))
            self._lines += len(found["step"])
            return
        middle = text.find(b"\n", len(text) // 2)
        if len(text) <= BLOCK or middle < 0:
            self._parse_lines(text.split(b"\n"))
        else:  # half of it may be whole
            self._parse(text[:middle])
            self._parse(text[middle + 1 :])

    def _parse_lines(self, lines: list[bytes]) -> None:
        rows: list[Any] = []
        if all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
            try:
                rows = json.loads(b"[" + b",".join(lines) + b"]")
            except (ValueError, RecursionError):
                rows = []
        if len(rows) != len(lines) or not self._add(rows):
            for number, line in enumerate(lines, self._lines + 1):
                if not self._add([_row(line)]):
                    self.damaged.append(number)
        self._lines += len(lines)

    def _add(self, rows: list[dict[str, Any]]) -> bool:
        """Add rows; return False and add nothing if a value is not a number."""
        if set(map(type, (row.get("step") for row in rows))) != {int}:
            return False
        if not all(0 <= row["step"] <= LARGEST for row in rows):
            return False
        added: dict[str, np.ndarray] = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row.get(name) for row in rows]
            if not set(map(type, values)) <= NUMBERS:
                return False
            try:
                added[name] = np.array(values, dtype=float)  # None becomes NaN
            except OverflowError:
                return False
            added[name][~np.isfinite(added[name])] = math.nan
        self._extend(added, len(rows))
        return True

    def _extend(self, added: Columns, count: int) -> None:
        """Add `count` rows, by column."""
        for name in added.keys() - self._parts.keys():
            self._parts[name] = [np.full(self._rows, math.nan)]
        gap = np.full(count, math.nan)
        for name, parts in self._parts.items():
            parts.append(added.get(name, gap))
        self._rows += count
        self._curve = None


def _row(line: bytes) -> dict[str, Any]:
    """Return the row in a line, or an empty one if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}
