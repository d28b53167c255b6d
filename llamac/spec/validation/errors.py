"""Problems of a spec, with positions and hints, and their text."""

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
"""Keys and indices of a value in the document: `("data", "source", 0, "share")`."""


OPTION, REPLACED = "--set", "replace"
"""Names that replace the file in locations outside of files: `--set`, and `Spec.replace`."""


@dataclass(frozen=True)
class Problem:
    """A violated rule of a spec.

    path: path of the key to blame. message: what is wrong. help: what to do, or "".
    at: the part of the document to point at, the key itself or its value.
    """

    path: Path
    message: str
    help: str = ""
    at: Literal["key", "value"] = "value"


class BrokenRules(ValueError):
    """All problems of one section, raised during Pydantic's validation.

    problems: the problems, with paths relative to the section.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Location:
    """A range of characters in one line of a file.

    file: name of the file, or `OPTION` or `REPLACED`.
    line, column: start, counted from 1; line 0 stands for the whole file.
    length: number of characters.
    source: text of the line.
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
    """A problem of a spec at its location. message: what is wrong. help: what to do, or ""."""

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
    """All problems of a spec; `str()` formats them for the terminal.

    diagnostics: the problems, in order. exit_code: exit code of a command that ends with them.
    """

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
    """Replace control characters, which could control the terminal, by U+FFFD."""
    return "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in text)


def describe(value: Any) -> str:
    """Describe a spec's value for a message: `the string "abc"`, `an array`."""
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
    """Return a key as TOML: bare if possible, else quoted."""
    text = str(key)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else json.dumps(text, ensure_ascii=False)


def dotted_key(path: Sequence[str | int]) -> str:
    """Return a path as a dotted TOML key: `data.source.0.share`."""
    return ".".join(toml_key(part) for part in path)


def join_options(options: Iterable[Any]) -> str:
    """Join options for a message: `a`, `a or b`, `a, b or c`."""
    words = [str(option) for option in options]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def nearest_multiples(value: int, of: int) -> list[int]:
    """Return the nearest multiples of `of` at or below `value` and above it, omitting zero."""
    below = value // of * of
    return [multiple for multiple in (below, below + of) if multiple > 0]


def nearest_divisors(value: int, of: int) -> list[int]:
    """Return the nearest divisor of `of` below a value and the nearest above it, if they exist."""
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
"""llamac's names of options, by other common names in lower case."""


def closest_option(word: str, options: Sequence[str]) -> str:
    """Return the option that a word probably means (a synonym or a typo), or "" if none is near."""
    word = word[:80].lower()
    if ALIASES.get(word) in options:
        return ALIASES[word]
    return next(iter(get_close_matches(word, options, n=1, cutoff=0.5)), "")
