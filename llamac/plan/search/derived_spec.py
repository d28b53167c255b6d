"""Write a spec that extends another, with comments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llamac.resources import find_spec
from llamac.spec import Spec
from llamac.spec.toml.writer import to_toml
from llamac.spec.validation.errors import printable


def derived_toml(
    base: str,
    out: Path,
    name: str,
    changes: Mapping[str, Any],
    above: Sequence[str],
    notes: Mapping[str, str],
) -> str:
    """Return TOML for the file `out` that lays `changes`, by dotted key, over the spec `base`.

    base: the spec as named on the command line. above: leading comment lines. notes: comments on
    sections, by name.
    """
    document: dict[str, Any] = {"extends": _named(base, out), "name": name}
    for key, value in changes.items():
        section, _, rest = key.partition(".")
        if rest:
            document.setdefault(section, {})[rest] = value
        else:
            document[section] = value
    return _commented(document, above, notes)


def whole_toml(spec: Spec, name: str, above: Sequence[str], notes: Mapping[str, str]) -> str:
    """Return the TOML of a spec with every key written out.

    Needed where a key is removed, which a spec that `extends` another cannot do. above: leading
    comment lines. notes: comments on sections, by name.
    """
    return _commented({**spec.toml_values(), "name": name}, above, notes)


def _commented(document: Mapping[str, Any], above: Sequence[str], notes: Mapping[str, str]) -> str:
    lines = [f"# {printable(text)}" for text in above]
    for text in to_toml(document).splitlines():
        note = notes.get(text.strip("[]")) if text.startswith("[") else None
        lines.append(f"{text:<24}# {printable(note)}" if note else text)
    return "\n".join([*lines, ""])


def override_values(spec: Spec, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values that `--set` gave, by dotted key.

    A key inside an array or table gives the whole of it: a spec that extends another cannot set a
    part.
    """
    written, found = spec.toml_values(), {}
    for text in overrides:
        section, *rest = text.partition("=")[0].strip().split(".")
        if not rest:
            found[section] = written[section]
        elif rest[0] in written[section]:
            found[f"{section}.{rest[0]}"] = written[section][rest[0]]
    return found


def _named(base: str, out: Path) -> str:
    """Return the spec's name in `out`: a shipped spec's name, or a path relative to `out`."""
    path = find_spec(base)
    if path != Path(base):
        return path.stem
    return Path(os.path.relpath(path.resolve(), out.parent.resolve())).as_posix()
