"""Emitted directory of a trainer: read its spec, and detect changed files."""

from __future__ import annotations

import hashlib
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from .durable_files import read_bytes, read_json


def read_spec(directory: Path) -> dict[str, Any]:
    """Return spec.toml of `directory`, after reporting changed files of the program.

    Exits with an error if they cannot be used.
    """
    try:
        if (problem := changes(directory)) and os.environ.get("RANK", "0") == "0":
            print(problem, file=sys.stderr, flush=True)
        return tomllib.loads(read_bytes(directory / "spec.toml").decode())
    except (OSError, ValueError, RecursionError) as error:
        raise SystemExit(
            f"error: {directory / 'spec.toml'} cannot be read ({error}): build the trainer again"
        ) from None


def changes(directory: Path) -> str:
    """Return the names of edited or damaged files of the program; "" without any.

    Ends the program if a build was interrupted while it replaced them.
    """
    manifest = directory / "MANIFEST.json"
    if not manifest.exists():
        return ""
    try:
        noted = read_json(manifest)
        files = {name: noted["sha256"][name] for name in noted["sha256"] if decides(name)}
        edited = [name for name in sorted(files) if _sha256(directory / name) != files[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{manifest} is damaged ({error}), so changed files cannot be detected"
    if edited and "replacing" in noted:
        raise SystemExit(
            f"error: a build was interrupted while it replaced files in {directory}: build it again"
        )
    return f"changed since llamac wrote them: {', '.join(edited)}" if edited else ""


def decides(name: str) -> bool:
    """Return whether training results depend on this file of an emitted directory."""
    return name.endswith((".py", ".cpp")) or name == "spec.toml"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
