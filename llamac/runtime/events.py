"""RUN/events.jsonl: the events of a run other than its steps, one JSON object per line.

Every line has `event` (start, first_step, save, sample or stop), `step` (the last one before it)
and `time` (seconds since 1970). A start also has the checkpoint it resumes from, the layout and the
environment; a first step the seconds of each part of the start; a sample its text; a stop the error
that ended the run, if any. The file is append-only: events of steps that a resumed run repeats
remain. It serves people and `llamac report` only, so a line that cannot be written is dropped.
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
TAIL = 1 << 20  # bytes at the end of the file that are searched for a run's id


def record(run: Path, event: str, step: int, **extra: Any) -> None:
    """Append an event to the run's events.jsonl; errors of writing are ignored.

    event: kind, such as "save". step: last step before the event. extra: further fields, JSON
    values. The time is added.
    """
    line = json.dumps({"event": event, "step": step, "time": round(time.time(), 3), **extra})
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
    """Return the run's id for experiment trackers.

    It is the id of the last start in the last TAIL bytes of events.jsonl, or a new one, 12 hex
    digits, if there is none or the run starts at step 0. resumed: step after which the run resumes;
    0 if it does not.
    """
    last = ""
    with suppress(OSError), open_regular(run / NAME) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        for line in file.read().splitlines():
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                last = str(json.loads(line)["id"])
    return last if last and resumed else uuid.uuid4().hex[:12]
