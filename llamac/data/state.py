"""What makes preparation restartable: locks, and settings that must not change on the way."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llamac.runtime.data.token_shards import differences
from llamac.runtime.durable import Damaged, read_note, write_note
from llamac.runtime.errors import RunError

FORMAT = 2
"""Of what lies under `.work`, and of what readers and stages make of their input. A change of it
makes what was begun before a mismatch."""


class Changed(RunError, ValueError):
    """Work was begun under other settings."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder and holds its lock; waits for a process that has it, which may be one of a
    killed preparation that is about to end. The kernel frees the lock of a process that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def differences_from(path: Path, settings: Mapping[str, Any]) -> list[str]:
    """What is another setting than was noted there, if anything was: `key: was then, is now`.

    Raises Damaged.
    """
    try:
        noted = read_note(path) or {}
    except Damaged as error:
        raise Damaged(
            f"{error}: prepare anew what it is of, after\n  rm -r {path.parent}"
        ) from error
    noted = {key: value for key, value in noted.items() if key not in ("key", "sha256")}
    return differences(noted, {"format": FORMAT, **settings}) if noted else []


def note(path: Path, settings: Mapping[str, Any]) -> None:
    """Notes the settings that work is begun under; the first note stays."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_note(path, {"format": FORMAT, **settings})
