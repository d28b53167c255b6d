"""Seconds of each part of a run's start, from the start of its process to its first step's end."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path


class StartTimes:
    """Stopwatch for the parts of a run's start: call `end` at the end of each part, in order.

    seconds: name of each part so far → its seconds.
    """

    def __init__(self, began: float) -> None:
        """Record "imports", from the program's first line to now, as the first part.

        If the process began over 0.5 s before that line, "set-up and build" comes before it. began:
        time.time() at the program's first line.
        """
        before = began - (_process_began() or began)
        self.seconds = {"set-up and build": round(before, 3)} if before > 0.5 else {}
        self._since = began
        self.end("imports")

    def end(self, part: str) -> None:
        """Record the seconds since the previous part's end as those of `part`."""
        since, self._since = self._since, time.time()
        self.seconds[part] = round(self._since - since, 3)

    def __str__(self) -> str:
        """Return `first step after 14.2 s: imports 2.5, data 7.1, …`."""
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.seconds.items())
        return f"first step after {sum(self.seconds.values()):.1f} s: {parts}"


def _process_began() -> float | None:
    """Return the time.time() at which this process began; None if /proc does not say.

    Programs that this one replaced by exec are included: `./dev`, then `llamac train`.
    """
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since boot; proc(5), field 22
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks)
    return None
