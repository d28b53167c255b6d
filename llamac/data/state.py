"""Locks and recorded settings, which make preparation restartable."""

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
"""Version of the files under `.work`, and of what readers and stages produce.

Work of another version is reported as begun with other settings.
"""


class Changed(RunError, ValueError):
    """The settings differ from those with which the work was begun."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder and hold its lock; wait while another process holds it.

    That process may belong to a killed preparation and be about to end. The kernel releases the
    lock of a process that dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def differences_from(path: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return a line `key: A before, B now` for each setting that differs from the record at `path`.

    Empty if there is no record. Raises Damaged.
    """
    try:
        noted = read_note(path) or {}
    except Damaged as error:
        raise Damaged(f"{error}: prepare the data again, after\n  rm -r {path.parent}") from error
    noted = {key: value for key, value in noted.items() if key not in ("key", "sha256")}
    return changed_settings(noted, {"format": FORMAT, **settings}) if noted else []


def note(path: Path, settings: Mapping[str, Any]) -> None:
    """Record the settings that work is begun with; an existing record stays."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_note(path, {"format": FORMAT, **settings})
