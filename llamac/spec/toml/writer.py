"""Deterministic TOML writer for plain values and arbitrary strings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llamac.spec.validation.errors import toml_key


def to_toml(document: Mapping[str, Any]) -> str:
    """Return a document as TOML text.

    Top-level tables are written as sections, and lists of tables in them as arrays of tables
    (`[[data.source]]`). Deeper tables are inline. Values must not be None, which TOML lacks.
    """
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        f"{key} = {toml_literal(value)}" for key, value in document.items() if _plain(value)
    )
    for name, section in document.items():
        if not _plain(section):
            yield from ("", f"[{toml_key(name)}]")
            yield from _table(section, toml_key(name))


def _table(table: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the keys, then the arrays of tables under it, each entry with its own."""
    arrays = {key: value for key, value in table.items() if _is_array_of_tables(value)}
    for key, value in table.items():
        if key not in arrays:
            yield f"{toml_key(key)} = {toml_literal(value)}"
    for key, entries in arrays.items():
        inner = f"{name}.{toml_key(key)}"
        for entry in entries:
            yield from ("", f"[[{inner}]]")
            yield from _table(entry, inner)


def _plain(value: Any) -> bool:
    return not isinstance(value, Mapping)


def _is_array_of_tables(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(v, Mapping) for v in value)


def toml_literal(value: Any) -> str:
    """Return a value as TOML on one line: mappings as inline tables, sequences as arrays.

    Integers get thousands separators: 1_400_000_000_000.
    """
    match value:
        case bool():
            return str(value).lower()
        case int():
            return f"{value:_}"
        case float():
            return repr(value)
        case str():
            return toml_string(value)
        case Mapping():
            pairs = ", ".join(f"{toml_key(k)} = {toml_literal(v)}" for k, v in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case _:
            return f"[{', '.join(map(toml_literal, value))}]"


def toml_string(text: str) -> str:
    """Return text as a quoted TOML string, with control characters escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
