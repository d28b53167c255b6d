"""Write specs derived from another one, with comments."""

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
    header: Sequence[str],
    notes: Mapping[str, str],
) -> str:
    """Return the TOML of a spec for the file `out` that extends `base` by `changes`.

    base: spec as named on the command line. name: name of the new spec. changes: values by dotted
    key. header: leading comment lines. notes: comments on sections, by section name.
    """
    document: dict[str, Any] = {"extends": _spec_reference(base, out), "name": name}
    for key, value in changes.items():
        section, _, rest = key.partition(".")
        if rest:
            document.setdefault(section, {})[rest] = value
        else:
            document[section] = value
    return _with_comments(document, header, notes)


def full_toml(spec: Spec, name: str, header: Sequence[str], notes: Mapping[str, str]) -> str:
    """Return the TOML of a spec with all its keys, without `extends`.

    This is needed if a key is removed, which a spec that extends another cannot express.
    name: name of the new spec. header: leading comment lines. notes: comments on sections, by
    section name.
    """
    return _with_comments({**spec.toml_values(), "name": name}, header, notes)


def _with_comments(
    document: Mapping[str, Any], header: Sequence[str], notes: Mapping[str, str]
) -> str:
    lines = [f"# {printable(text)}" for text in header]
    for text in to_toml(document).splitlines():
        note = notes.get(text.strip("[]")) if text.startswith("[") else None
        lines.append(f"{text:<24}# {printable(note)}" if note else text)
    return "\n".join([*lines, ""])


def override_values(spec: Spec, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of `spec` that `--set` changed, by dotted key; removed keys are left out.

    overrides: arguments of `--set`, such as `batch.sequences=64`, already applied to `spec`.
    If a key is inside an array or table, the whole of that is returned, because a spec that extends
    another cannot set a part of it.
    """
    written, values = spec.toml_values(), {}
    for text in overrides:
        section, *rest = text.partition("=")[0].strip().split(".")
        if not rest:
            values[section] = written[section]
        elif rest[0] in written[section]:
            values[f"{section}.{rest[0]}"] = written[section][rest[0]]
    return values


def _spec_reference(base: str, out: Path) -> str:
    """Return the value of `extends` in `out`: a shipped spec's name, or a relative path."""
    path = find_spec(base)
    if path != Path(base):
        return path.stem
    return Path(os.path.relpath(path.resolve(), out.parent.resolve())).as_posix()
