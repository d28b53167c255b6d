"""Problems of a spec with positions and hints, collected and rendered together."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

Path = tuple[str | int, ...]
"""Where a value sits in the document: `("data", "source", 0, "share")`."""


OPTION, REPLACED = "--set", "replace"
"""What stands for the file in locations that are in none: `--set` and `Spec.replace`."""


@dataclass(frozen=True)
class Problem:
    """A violated rule of a spec.

    path: of the key to blame. message: what is wrong. help: what to do. at: whether to point at the
    key or at its value.
    """

    path: Path
    message: str
    help: str = ""
    at: Literal["key", "value"] = "value"


class Broken(ValueError):
    """All problems of one section, raised within Pydantic's validation."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Location:
    """A range of one source line.

    line, column: counted from 1; line 0 means the whole file. length: in characters. source: the
    line's text.
    """

    file: str
    line: int = 0
    column: int = 0
    length: int = 1
    source: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Diagnostic:
    """One problem of a spec at its location, with a hint on how to fix it."""

    location: Location
    message: str
    help: str = ""

    def __str__(self) -> str:
        lines = [f"{self.location}: error: {printable(self.message)}"]
        if self.location.source.strip():
            lines += _excerpt(self.location)
        if self.help:
            lines.append(f"  help: {printable(self.help)}")
        return "\n".join(lines)


class SpecError(Exception):
    """All problems of one spec; `str()` renders them for the terminal."""

    exit_code = 2

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return "\n\n".join(str(diagnostic) for diagnostic in self.diagnostics)


def _excerpt(location: Location) -> list[str]:
    before = location.source[: location.column - 1]
    marked = location.source[location.column - 1 :][: max(1, location.length)].rstrip()
    # The padding copies tabs, so that the caret stands under the same column in any tab width.
    padding = "".join("\t" if char == "\t" else " " * _width(char) for char in before)
    carets = "^" * max(1, sum(map(_width, marked)))
    return ["  " + printable(location.source), "  " + padding + carets]


def _width(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def printable(text: str) -> str:
    """Return `text` with control characters, which could control the terminal, as U+FFFD."""
    return "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in text)


def describe(value: Any) -> str:
    """Return a description of a spec's value: `the string "abc"`, `an array`."""
    match value:
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() if abs(value) >= 10**20:
            return f"a number of about 10^{int(abs(value).bit_length() * math.log10(2))}"
        case int() | float():
            return str(value)
        case str():
            text = value if len(value) <= 40 else value[:39] + "…"
            return f"the string {json.dumps(text, ensure_ascii=False)}"
        case list() | tuple():
            return "an array"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def toml_key(key: str | int) -> str:
    """Return a key as TOML writes it: bare if allowed, else quoted."""
    text = str(key)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else json.dumps(text, ensure_ascii=False)


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as a dotted TOML key: `data.source.0.share`."""
    return ".".join(toml_key(part) for part in path)


def either(options: Iterable[Any]) -> str:
    """Return the options joined: `a`, `a or b`, `a, b or c`."""
    words = [str(option) for option in options]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def nearest_multiples(value: int, of: int) -> list[int]:
    """Return the positive multiples of `of` next to `value`: at or below it, and above it."""
    below = value // of * of
    return [multiple for multiple in (below, below + of) if multiple > 0]


def nearest_divisors(value: int, of: int) -> list[int]:
    """Return the divisors of `of` just below and above `value`."""
    found = divisors(of)
    below = [n for n in found if n < value][-1:]
    return below + [n for n in found if n > value][:1]


def divisors(of: int) -> list[int]:
    """Return the divisors of `of` in ascending order.

    Above 10¹⁰, only divisors below 10⁵ and their cofactors are found, which bounds the time.
    """
    small = [n for n in range(1, min(math.isqrt(of), 10**5) + 1) if of % n == 0]
    return sorted({*small, *(of // n for n in small)})


ALIASES = {
    "gpu": "cuda",
    "k8s": "kubernetes",
    "sky": "skypilot",
    "bfloat16": "bf16",
    "float32": "fp32",
    "f32": "fp32",
    "adam": "adamw",
    "flash": "sdpa",
    "png": "svg",
}
"""Common names of options, and their names here."""


def also_known(word: str, options: Sequence[str]) -> str:
    """Return the option that `word` probably means (a synonym or a typo), or ""."""
    word = word[:80].lower()
    if ALIASES.get(word) in options:
        return ALIASES[word]
    return next(iter(get_close_matches(word, options, n=1, cutoff=0.5)), "")
