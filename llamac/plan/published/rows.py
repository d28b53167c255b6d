"""Read columns of published measurements: text, numbers, flags."""

from __future__ import annotations

import re
from collections.abc import Mapping

Row = Mapping[str, str | None]

EMPTY = frozenset(("", "-", "—", "–", "?", "na", "n/a", "nan", "none", "null", "unknown", "tbd"))
YES = frozenset(("1", "true", "yes", "y", "on", "tied", "1.0"))
NO = frozenset(("0", "false", "no", "n", "off", "untied", "0.0"))
SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


class RowError(ValueError):
    """A row is not a valid run; the message names the column and its allowed values."""

    exit_code = 2


def text(row: Row, *keys: str) -> str:
    """Return these columns' text in lower case; a missing column is empty."""
    return " ".join(str(row.get(key) or "").strip().lower() for key in keys).strip()


def number(row: Row, key: str) -> float | None:
    """Return a column as a number, None where it is empty. Raises RowError.

    `1,024`, `4M`, `1.4e12`, `~8`, `>1`, `x8` are numbers; of `16 (8×2)` or `8-16` the first counts.
    """
    given = text(row, key)
    if given in EMPTY:
        return None
    found = re.match(r"[~≈<>=x×\s]*(-?\d[\d,_ ]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*([kmbgt]?)\b", given)
    if found is None:
        raise RowError(f"column {key} is {given!r}: give a number")
    return float(re.sub(r"[,_ ]", "", found[1])) * SCALES.get(found[2], 1.0)


def count(row: Row, key: str) -> int | None:
    """Return a column as an integer of at least 1; 0 counts as absent."""
    found = number(row, key)
    if found is None or found == 0:
        return None
    if found < 1 or found != round(found):
        raise RowError(f"column {key} is {text(row, key)!r}: give a whole number")
    return round(found)


def needed(row: Row, key: str) -> int:
    found = count(row, key)
    if found is None:
        raise RowError(f"column {key} is empty")
    return found


def flag(row: Row, key: str) -> bool | None:
    """Return a column as a boolean; None if it is neither yes nor no."""
    given = text(row, key)
    return True if given in YES else False if given in NO else None


def says(given: str, *words: str) -> bool:
    """Return whether one of these words or patterns occurs in a text."""
    return any(re.search(word, given) for word in words)
