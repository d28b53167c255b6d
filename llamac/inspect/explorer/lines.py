"""Table that stores each distinct line once, as stages of a program share most lines."""

from __future__ import annotations

from collections.abc import Iterable


class LineTable:
    """Lines of text, each stored once and numbered from 0 in the order of first addition."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}

    def add(self, lines: Iterable[str]) -> list[int]:
        """Return the number of each of `lines`, adding those that are new."""
        return [self._number.setdefault(line, len(self._number)) for line in lines]

    def table(self) -> list[str]:
        """Return all distinct lines; the index of each is its number."""
        return list(self._number)
