"""Overrides of values by `--set section.key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from llamac.spec.toml.positions import Place
from llamac.spec.toml.toml_document import TomlDocument, current_name
from llamac.spec.validation.errors import (
    OPTION,
    Diagnostic,
    Location,
    Path,
    SpecError,
    describe,
    dotted_key,
)

_EXAMPLE = "write --set section.key=value, for instance --set optimizer.lr=3e-4"


def apply_overrides(document: TomlDocument, overrides: Sequence[str]) -> None:
    """Set each `key=value` in `document`, in place and in order.

    A value that is not valid TOML is taken as a string. Raises SpecError with the errors of all
    invalid overrides; the others are set all the same.
    """
    failures: list[Diagnostic] = []
    document.roots[OPTION] = FilePath.cwd()
    for text in overrides:
        try:
            path, value, place = _parse(text)
            if (current := current_name(path)) != path:
                document.note_renamed(path, current, place)
            document.put(_resolve(document, current, place), value, place)
        except SpecError as error:
            failures += error.diagnostics
    if failures:
        raise SpecError(failures)


def _parse(text: str) -> tuple[tuple[str, ...], Any, Place]:
    whole = Location(OPTION, 1, 1, len(text), text)
    if not text.isprintable() and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _failure(whole, "not text in UTF-8") from None
    key, equals, value = text.partition("=")
    if not equals:
        raise _failure(whole, "missing `=`", _EXAMPLE)
    place = Place(
        Location(OPTION, 1, 1, max(1, len(key.rstrip())), text),
        Location(OPTION, 1, len(key) + 2, max(1, len(value)), text),
    )
    path = _key(key)
    if path is None:
        raise _failure(place.key, f"{describe(key)} is not a key", _EXAMPLE)
    if path == ("extends",):
        raise _failure(place.key, "`extends` can only be given in the file")
    return path, _value(value), place


def _key(text: str) -> tuple[str, ...] | None:
    """Return the parts of a dotted TOML key, or None."""
    try:
        node: Any = tomllib.loads(f"{text} = 0") if "\n" not in text else {}
    except (ValueError, RecursionError):
        return None
    parts: list[str] = []
    while isinstance(node, dict) and len(node) == 1:
        [(part, node)] = node.items()
        parts.append(part)
    return tuple(parts) if node == 0 else None


def _value(text: str) -> Any:
    """Parse a TOML value; return the text itself if invalid, as in `name=mine`."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 and text.strip() else text


def _resolve(document: TomlDocument, keys: Sequence[str], place: Place) -> Path:
    """Return `keys` as a path: parts that index an array become integers."""
    path: Path = ()
    parent: Any = document.data
    for key in keys:
        if isinstance(parent, list):
            if not key.isdecimal() or int(key[:6]) >= len(parent):
                known = f"it has entries 0 to {len(parent) - 1}" if parent else "it is empty"
                message = f"`{dotted_key(path)}` is an array without the index {describe(key)}"
                raise _failure(place.key, message, known)
            part: str | int = int(key)
            parent = parent[part]
        elif isinstance(parent, dict):
            part, parent = key, parent.get(key, {})
        else:
            message = f"`{dotted_key(path)}` is {describe(parent)} and has no keys"
            raise _failure(place.key, message)
        path = (*path, part)
    return path


def _failure(location: Location, message: str, help: str = "") -> SpecError:
    return SpecError([Diagnostic(location, message, help)])
