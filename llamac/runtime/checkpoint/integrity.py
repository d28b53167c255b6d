"""Integrity of a checkpoint: entries of its manifest, its state, and a search for damage."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from .. import durable_files
from ..distributed.ranks import Ranks
from ..train.progress import Progress

MAX_COUNT = 1 << 62  # largest count of steps, sequences and tokens: arrays have 64 bits
SINGLE_RANK = Ranks()


def manifest_entries(files: Iterable[Path], root: Path) -> dict[str, Any]:
    """Return path relative to `root` → {"bytes": size, "sha256": hex digest} of each file."""
    return {
        str(path.relative_to(root)): {
            "bytes": path.stat().st_size,
            "sha256": durable_files.sha256_of(path),
        }
        for path in files
    }


def read_state(path: Path) -> dict[str, Any]:
    """Return state.json of the checkpoint at `path`, parsed.

    Raises OSError if it cannot be read, ValueError if it lacks required keys or is damaged. Does
    not compare it with the manifest.
    """
    state = durable_files.read_json(path / "state.json")
    kinds = {"step": int, "curve": dict, "random": list}
    if not isinstance(state, dict) or any(type(state.get(k)) is not t for k, t in kinds.items()):
        raise ValueError("state.json lacks required keys")
    for name in Progress.names():
        if type(value := state.get(name, 0)) is not int or not 0 <= value < MAX_COUNT:
            raise ValueError(f"state.json says {name} is {value!r}")
    if not state["random"] or any(not isinstance(entry, dict) for entry in state["random"]):
        raise ValueError("state.json has no random state")
    return state


def damage(path: Path, ranks: Ranks = SINGLE_RANK) -> str | None:
    """Return a description of damage to the checkpoint at `path`, or None if it is undamaged.

    Compares the size and hash of every file with the manifest. All ranks call this, each verifies a
    share of the files, and all get the same result.
    """
    return next(filter(None, ranks.on_each(lambda: _damage(path, ranks.rank, ranks.size))), None)


def _damage(path: Path, share: int, shares: int) -> str | None:
    try:
        manifest = durable_files.read_json(path / "MANIFEST.json")
        for pattern in ("state.json", "tensors/.metadata", "tensors/*.distcp"):
            if not fnmatch.filter(manifest, pattern):
                return f"MANIFEST.json lists no {pattern}"
        own = list(manifest.items())[share::shares]
        for name, entry in own:
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                return f"MANIFEST.json lists {name}, which is outside the checkpoint"
            if (size := (path / name).stat().st_size) != entry["bytes"]:
                return f"{name} has {size} bytes, not {entry['bytes']}"
        hashes = durable_files.sha256_of_all(path / name for name, _ in own)
        for (name, entry), sha256 in zip(own, hashes, strict=True):
            if sha256 != entry["sha256"]:
                return f"{name} does not match its checksum"
        read_state(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None
