"""Columns of text."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], align: str, indent: int = 2) -> list[str]:
    """Format rows as lines with columns as wide as their widest cell.

    align: `<` or `>` per column.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [(" " * indent + "  ".join(map(_cell, row, align, widths))).rstrip() for row in rows]


def _cell(text: str, side: str, width: int) -> str:
    return text.rjust(width) if side == ">" else text.ljust(width)
