"""Locks and recorded settings, with which preparation can be interrupted and resumed."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llamac.runtime.data.data_settings import changed_settings
from llamac.runtime.durable_files import Damaged, read_note, write_note
from llamac.runtime.errors import RunError

FORMAT = 2
"""Version of the files under `.work`, and of the results of readers and stages.

Work of another version counts as begun with other settings.
"""


class SettingsChangedError(RunError, ValueError):
    """Settings differ from those with which the preparation was begun."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Create a folder and hold its lock; wait while another process holds it.

    The other process may belong to a killed preparation and be about to exit. The kernel releases
    the lock of a process that dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def differences_from(path: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return a line "key: A before, B now" for each setting that differs from the record at `path`.

    The result is empty if there is no record. Raises Damaged if the record is damaged.
    """
    try:
        recorded = read_note(path) or {}
    except Damaged as error:
        raise Damaged(f"{error}: prepare the data again, after\n  rm -r {path.parent}") from error
    recorded = {key: value for key, value in recorded.items() if key not in ("key", "sha256")}
    return changed_settings(recorded, {"format": FORMAT, **settings}) if recorded else []


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Record at `path` the settings with which work is begun, unless there is a record already."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_note(path, {"format": FORMAT, **settings})
