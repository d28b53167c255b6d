"""Read columns of published measurements as text, numbers and flags."""

from __future__ import annotations

import re
from collections.abc import Mapping

Row = Mapping[str, str | None]

EMPTY = frozenset(("", "-", "—", "–", "?", "na", "n/a", "nan", "none", "null", "unknown", "tbd"))
YES = frozenset(("1", "true", "yes", "y", "on", "tied", "1.0"))
NO = frozenset(("0", "false", "no", "n", "off", "untied", "0.0"))
SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


class RowError(ValueError):
    """A row is not a run that a spec can express, or a table has no header.

    The message has the reason.
    """

    exit_code = 2


def text(row: Row, *keys: str) -> str:
    """Return the text of columns in lower case, joined by spaces; a missing one counts as empty."""
    return " ".join(str(row.get(key) or "").strip().lower() for key in keys).strip()


def number(row: Row, key: str) -> float | None:
    """Return a column as a number; None if it is empty. Raises RowError for other text.

    `1,024`, `4M` (4e6), `1.4e12`, `~8`, `>1` and `x8` are numbers; of `16 (8×2)` or `8-16`, the
    first number counts.
    """
    column = text(row, key)
    if column in EMPTY:
        return None
    match = re.match(r"[~≈<>=x×\s]*(-?\d[\d,_ ]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*([kmbgt]?)\b", column)
    if match is None:
        raise RowError(f"column {key} is {column!r}: give a number")
    return float(re.sub(r"[,_ ]", "", match[1])) * SCALES.get(match[2], 1.0)


def count(row: Row, key: str) -> int | None:
    """Return a column as an integer of at least 1; None if it is empty or 0.

    Raises RowError if it is not a whole number.
    """
    value = number(row, key)
    if value is None or value == 0:
        return None
    if value < 1 or value != round(value):
        raise RowError(f"column {key} is {text(row, key)!r}: give a whole number")
    return round(value)


def required_count(row: Row, key: str) -> int:
    """Return a column as an integer of at least 1.

    Raises RowError if it is empty, 0 or not a whole number.
    """
    value = count(row, key)
    if value is None:
        raise RowError(f"column {key} is empty")
    return value


def flag(row: Row, key: str) -> bool | None:
    """Return a column such as `yes`, `off` or `1` as a boolean; None if it is neither."""
    column = text(row, key)
    return True if column in YES else False if column in NO else None


def mentions(text: str, *patterns: str) -> bool:
    """Return whether one of the regular expressions matches anywhere in a text."""
    return any(re.search(pattern, text) for pattern in patterns)
