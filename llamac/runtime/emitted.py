"""Emitted directory of a trainer: read its spec, and detect modified files."""

from __future__ import annotations

import hashlib
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from .durable_files import read_bytes, read_json


def read_spec(directory: Path) -> dict[str, Any]:
    """Return spec.toml of an emitted directory, parsed; rank 0 reports modified files on stderr.

    Raises SystemExit if spec.toml cannot be read, or as `changes` does.
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
    """Return a message that lists the modified or missing files of the program, or "".

    Compares code and spec with the hashes in MANIFEST.json; returns "" if there is no such file,
    and a message if it is damaged. Raises SystemExit if a build was interrupted while it replaced
    them.
    """
    manifest = directory / "MANIFEST.json"
    if not manifest.exists():
        return ""
    try:
        noted = read_json(manifest)
        files = {name: noted["sha256"][name] for name in noted["sha256"] if affects_results(name)}
        edited = [name for name in sorted(files) if _sha256(directory / name) != files[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{manifest} is damaged ({error}), so changed files cannot be detected"
    if edited and "replacing" in noted:
        raise SystemExit(
            f"error: a build was interrupted while it replaced files in {directory}: build it again"
        )
    return f"changed since llamac wrote them: {', '.join(edited)}" if edited else ""


def affects_results(name: str) -> bool:
    """Return whether training results depend on a file of an emitted directory: code or spec.

    name: path of the file relative to the directory.
    """
    return name.endswith((".py", ".cpp")) or name == "spec.toml"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
