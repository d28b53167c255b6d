"""Table that stores each distinct line once, as stages of a program share most lines."""

from __future__ import annotations

from collections.abc import Iterable


class LineTable:
    """Distinct lines of text, numbered from 0 in order of addition."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}

    def add(self, lines: Iterable[str]) -> list[int]:
        """Return the numbers of these lines, adding those that are new."""
        return [self._number.setdefault(line, len(self._number)) for line in lines]

    def table(self) -> list[str]:
        return list(self._number)
