"""Read and hash files of an untrusted directory, with bounded size and nesting."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llamac.convert.errors import ConversionError
from llamac.runtime import durable_files

MAX_JSON_BYTES = 64 << 20  # bytes; a tokenizer.json has some 30 MB
MAX_DEPTH = 64  # levels of nesting in JSON


def path_inside(directory: Path, name: str) -> Path:
    """Return `directory / name`, an existing file inside `directory`.

    Symbolic links are followed; from a Hugging Face cache they may also lead to its `blobs`.
    Raises ConversionError for a missing file, and for a path that leaves the directory.
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


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file.

    max_bytes: size of the largest file that is read. Raises ConversionError if the file is larger,
    nested more than MAX_DEPTH levels deep, has duplicate keys, or is not a JSON object.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise ConversionError(f"{path} has {size:,} bytes, more than the limit of {max_bytes:,}")
    return json_object(path.read_bytes(), str(path))


def json_object(text: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in `text`.

    where: the source of the text, for messages. Raises ConversionError if `text` is not a JSON
    object, is nested more than MAX_DEPTH levels deep or has duplicate keys.
    """
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
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in table if names.count(name) > 1)
        raise ValueError(f"it has the key {duplicate!r} twice")
    return table


def _require_shallow(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if (depth := depth + 1) > MAX_DEPTH:
            raise RecursionError
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [
            v
            for values in inner
            if isinstance(values, Iterable) and not isinstance(values, str)
            for v in values
            if isinstance(v, dict | list)
        ]


def hash_files(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return {"bytes": size, "sha256": hex digest} of each file, by name without directory."""
    hashed = zip(files, durable_files.sha256_of_all(files), strict=True)
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha} for path, sha in hashed}
