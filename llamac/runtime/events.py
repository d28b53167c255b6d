"""RUN/events.jsonl: the events of a run besides its steps, one JSON object per line.

Every line has `event` (start, first_step, save, sample or stop), `step` (after which it happened)
and `time` (seconds since 1970). A start also has the checkpoint it resumes from, the layout and the
environment; a first step the seconds of each part of the start; a sample its text; a stop the error
that ended the run, if any. The file is append-only: events of steps that a later start repeats
stay. It is for people, such as readers of `llamac report`; nothing depends on it, and a line that
cannot be written is lost.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from .durable_files import open_regular

NAME = "events.jsonl"
TAIL = 1 << 20  # bytes at the end of the file that are searched for a run's identity


def record(run: Path, event: str, step: int, **more: Any) -> None:
    """Append one event. more: further fields, JSON values."""
    line = json.dumps({"event": event, "step": step, "time": round(time.time(), 3), **more})
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    with suppress(OSError):
        descriptor = os.open(run / NAME, flags, 0o666)
        with os.fdopen(descriptor, "rb+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            cut = (
                end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
            )  # cut off by a crash or a full disk
            file.write(b"\n" * cut + line.encode() + b"\n")


def identity(run: Path, resumed: int) -> str:
    """Return the run's name for services: a new one at step 0, else that of its last start."""
    known = ""
    with suppress(OSError), open_regular(run / NAME) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        for line in file.read().splitlines():
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                known = str(json.loads(line)["id"])
    return known if known and resumed else uuid.uuid4().hex[:12]
