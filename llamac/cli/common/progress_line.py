"""Progress of long work: an updating line on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llamac.cli.common.options import print_status
from llamac.runtime.terminal import escaped, supports_escapes

if TYPE_CHECKING:
    from llamac.data.executor import Report, Step

EVERY = 30.0  # seconds between lines without a terminal


@contextmanager
def progress_report() -> Iterator[Report]:
    """Context manager that yields a progress callback for `llamac.data.executor.run`.

    It draws bars on a terminal; otherwise it prints a line for each step and at most one in
    `EVERY` seconds within it. Both go to stderr.
    """
    if supports_escapes(sys.stderr):
        with _bars() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bars() -> Iterator[Report]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    from llamac.look.console import console

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[jobs]}"),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(sys.stderr)) as progress:
        task = progress.add_task("planning", total=None, jobs="")
        shown = ""

        def report(step: Step, done: int, size: int) -> None:
            nonlocal task, shown
            if step.name != shown:
                shown = step.name
                progress.remove_task(task)
                task = progress.add_task(escaped(step.name), total=step.size or None, jobs="")
            progress.update(task, completed=size, jobs=f"{done}/{len(step.jobs)}")

        yield report


def _lines() -> Report:
    shown, said = "", 0.0

    def report(step: Step, done: int, size: int) -> None:
        nonlocal shown, said
        if step.name == shown and (time.monotonic() - said < EVERY or done == 0):
            return
        shown, said = step.name, time.monotonic()
        far = f" of {step.size / 1e6:,.1f} MB" if step.size else ""
        jobs = f", {done} of {len(step.jobs)} jobs done" if done else ""
        print(escaped(f"{step.name}{far}{jobs} …"), file=sys.stderr, flush=True)

    return report


def counting_line() -> Callable[[str, int, int], None]:
    """Return a callback (label, number done, total) that shows progress on stderr.

    Total 0 shows the label alone, and an empty label clears the line. Without a terminal, it prints
    a line at most once in `EVERY` seconds.
    """
    moves, said, width = sys.stderr.isatty(), 0.0, 0

    def show(what: str, done: int, total: int) -> None:
        nonlocal said, width
        line = f"{what} {done:,} of {total:,}" if total else what
        if moves:
            print(
                "\r" + line.ljust(width), end="\r" if not line else "", file=sys.stderr, flush=True
            )
            width = len(line)
        elif line and time.monotonic() - said > EVERY:
            said = time.monotonic()
            print_status(f"{line} …")

    return show
