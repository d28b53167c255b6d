"""Python literals in ruff's format, and the Jinja environment of the templates."""

from __future__ import annotations

import functools
import shlex
import unicodedata
from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llamac.resources import directory

WIDTH = 100
"""Maximum length of a line of generated Python, in columns."""


@functools.cache
def environment() -> Environment:
    """Return the Jinja environment for the templates that llamac ships.

    A template that uses an undefined name raises jinja2's UndefinedError. Templates write values of
    the spec with `py` or `constant` in Python and with `sh` in shell scripts, which quote and
    escape them.
    """
    templates = Environment(
        loader=FileSystemLoader(directory("templates")),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    templates.filters |= {"py": python_literal, "sh": shlex.quote}
    templates.globals["constant"] = constant
    return templates


def constant(name: str, value: Any) -> str:
    """Return the statement `NAME = literal`, wrapped if it exceeds `WIDTH`.

    value: as for `python_literal`.
    """
    text = python_literal(value, used=len(name) + 3)
    if isinstance(value, str) and len(name) + 3 + _width(text) > WIDTH >= _width(text) + 4:
        text = f"(\n    {text}\n)"
    return f"{name} = {text}"


def python_literal(value: Any, used: int = 0, indent: int = 0) -> str:
    """Return a value as a Python literal in ruff's format; containers wrap beyond `WIDTH`.

    value: str, number, bool, None, or a dict, list or tuple of such values.
    used: columns to the left of it on its first line. indent: spaces at the start of that line.
    """
    if isinstance(value, str):
        return _string(value)
    if not isinstance(value, dict | list | tuple):
        return repr(value)
    opening, closing = {dict: "{}", list: "[]", tuple: "()"}[type(value)]
    line = opening + ", ".join(_items(value, None)) + closing
    if isinstance(value, tuple) and len(value) == 1:
        line = f"{opening}{line[1:-1]},{closing}"
    if not value or used + _width(line) <= WIDTH:
        return line
    inside = " " * (indent + 4)
    body = "".join(f"{inside}{item},\n" for item in _items(value, indent + 4))
    return f"{opening}\n{body}{' ' * indent}{closing}"


def _items(value: Any, indent: int | None) -> Iterator[str]:
    """Yield the source of each element, on one line if `indent` is None, else wrapped at it."""
    pairs = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    for key, item in pairs:
        prefix = "" if key is None else f"{python_literal(key)}: "
        if indent is None:
            yield prefix + python_literal(item, used=-(10**9))
        else:  # with one column for the comma
            yield prefix + python_literal(item, used=indent + _width(prefix) + 1, indent=indent)


def _string(text: str) -> str:
    """Return `repr(text)` in double quotes unless single ones need fewer escapes, as ruff does."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    quoted = {quote: "\\" + quote, "'" if quote == '"' else '"': "'" if quote == '"' else '"'}
    return quote + "".join(quoted.get(c) or repr(c)[1:-1] for c in text) + quote


def _width(text: str) -> int:
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)
