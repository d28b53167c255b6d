"""Files of an untrusted directory: inside it, of bounded size and depth, hashed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llamac.convert.errors import ConversionError
from llamac.runtime import durable_files

LARGEST_JSON = 64 << 20  # bytes; a tokenizer.json has some 30 MB
DEEPEST = 64  # levels of nesting


def inside(directory: Path, name: str) -> Path:
    """Return the path of a file in `directory`, refusing paths that leave it.

    Hugging Face's cache keeps a snapshot's files in `blobs` beside it; links there are followed.
    Raises ConversionError.
    """
    path, root = directory / name, directory.resolve()
    places = [root]
    if root.parent.name == "snapshots":
        places.append(root.parent.parent / "blobs")
    try:
        target = path.resolve()
        there = path.is_file()
    except (OSError, ValueError, RuntimeError):  # names that no file can have, links in a circle
        target, there = root, False
    if not any(target.is_relative_to(place) for place in places):
        raise ConversionError(f"{path} leads out of {directory}: it must name a file inside")
    if not there:
        raise ConversionError(f"{directory} has no file {name[:200]!r}")
    return path


def read_json(path: Path, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """Return the JSON object in a file of bounded size and depth. Raises ConversionError."""
    size = path.stat().st_size
    if size > largest:
        raise ConversionError(f"{path} has {size:,} bytes, more than the limit of {largest:,}")
    return json_object(path.read_bytes(), str(path))


def json_object(text: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in `text`. Raises ConversionError, naming `where`."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
        _require_shallow(value)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ConversionError(f"{where} is not valid JSON: {reason}") from error
    if not isinstance(value, dict):
        raise ConversionError(f"{where} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"it has the key {twice!r} twice")
    return found


def _require_shallow(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if (depth := depth + 1) > DEEPEST:
            raise RecursionError
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [
            v
            for values in inner
            if isinstance(values, Iterable) and not isinstance(values, str)
            for v in values
            if isinstance(v, dict | list)
        ]


def hashes(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return bytes and sha256 of files, by name."""
    found = zip(files, durable_files.sha256_of_all(files), strict=True)
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha} for path, sha in found}
