"""Write a run's metrics to metrics.jsonl, trackers such as TensorBoard, and the terminal."""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import durable_files, events
from ..errors import remedy
from ..machine import forget_peak_memory, log, peak_memory_bytes
from ..terminal import escaped, supports_escapes
from .plan_file import WARM, deviation, read_plan
from .start_times import StartTimes
from .surroundings import run_environment
from .trackers import Row, open_trackers

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress


class Metrics:
    """Context manager that appends one JSON object per step to RUN/metrics.jsonl.

    Rows are passed on to trackers, and other events are written to RUN/events.jsonl. A run that
    resumes after step `resumed` drops later rows, and a last line cut short by a crash, so that the
    file has one row per step. Errors of writing are reported once and never end the run; rows that
    cannot be written are retried.

    run: run directory. run_info: facts of the start, from `Speed.run_info`. times: seconds of the
    start, printed and recorded with the first row; None to leave them out.
    """

    def __init__(
        self,
        run: Path,
        resumed: int,
        run_info: Row | None = None,
        times: StartTimes | None = None,
        **tracker_settings: Any,
    ) -> None:
        """Open the files, drop later rows, and record the start.

        tracker_settings: further arguments of `open_trackers`.
        """
        self._times = times
        self._compiles = (run_info or {}).get("compute", "").startswith("torch.compile")
        self.run, self.path, self._step = run, run / "metrics.jsonl", resumed
        self._waiting, self._said = b"", False
        self._file, dropped = None, 0
        with self._suppressed():
            dropped = self._truncate(resumed)
        with self._suppressed():
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
            self._file = os.fdopen(os.open(self.path, flags, 0o666), "wb", buffering=0)
        run_info = {"id": events.identity(run, resumed), **(run_info or {})}
        events.record(run, "start", resumed, dropped_rows=dropped, **run_info)
        self._trackers = open_trackers(run, resumed, run_info, **tracker_settings)

    def write(self, row: Row) -> None:
        """Append a row, with null for values that are not finite, and send it to the trackers.

        row: needs an integer `step`. The first call also ends and prints the times of the start.
        """
        self._step = row["step"]
        if self._times is not None:
            self._times.end("compiling and first step" if self._compiles else "first step")
            log(str(self._times))
            events.record(self.run, "first_step", self._step, seconds=self._times.seconds)
            self._times = None
        finite = {k: None if _is_nan(v) else v for k, v in row.items()}  # JSON has no NaN
        self._waiting += (json.dumps(finite, allow_nan=False) + "\n").encode()
        with self._suppressed():
            while self._waiting and self._file is not None:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        for tracker in self._trackers:
            tracker.write(finite)

    def sample(self, text: str) -> str:
        """Record a sample in events.jsonl for the last row's step; return it as a line to print.

        text: generated text with its prompt.
        """
        events.record(self.run, "sample", self._step, text=text)
        return f"sample after step {self._step:,}: {text}"

    def sync(self) -> None:
        """Flush the rows to disk; called before a checkpoint, which must not be newer than they."""
        with self._suppressed():
            if self._file is not None:
                os.fsync(self._file.fileno())

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        why = {"error": str(error) or type(error).__name__} if error else {}
        events.record(self.run, "stop", self._step, **why)
        with self._suppressed():
            if self._file is not None:
                self._file.close()
        for tracker in self._trackers:
            tracker.close()

    @contextlib.contextmanager
    def _suppressed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._said:
                self._said = True
                problem = f"{self.path} cannot be written ({error.strerror})"
                log(f"{problem}: the run continues without it; to record its rows, {remedy(error)}")

    def _truncate(self, resumed: int) -> int:
        """Drop damaged rows and those after step `resumed`; return the number of the latter."""
        if not self.path.exists():
            return 0
        lines = durable_files.read_bytes(self.path).splitlines(True)
        steps = [_step(line) for line in lines]
        damaged = [n for n, step in enumerate(steps, 1) if step is None]
        if len(lines) in damaged and not lines[-1].endswith(b"\n"):  # cut short by a crash
            damaged.remove(len(lines))
        if damaged:
            rows = f"{len(damaged)} damaged rows, from line {damaged[0]} on"
            log(f"{self.path} has {rows}, which are ignored")
        retained = [
            line for line, n in zip(lines, steps, strict=True) if n is not None and n <= resumed
        ]
        if retained != lines:
            durable_files.write(self.path, b"".join(retained))
        return sum(step is not None and step > resumed for step in steps)


@dataclass
class Speed:
    """Speed figures of a step: tokens per second, MFU, peak memory.

    tokens: tokens per step over all ranks. peak: FLOP/s of all devices, the denominator of MFU; a
    faster step raises it, as it was measured too low. device: this rank's. directory: emitted
    directory, whose plan.json has the prediction, if any. plan: that prediction or None. Peak
    memory is this device's, counted from the creation of this object.
    """

    tokens: int
    flops_per_token: int
    peak: float
    device: torch.device
    directory: Path

    def __post_init__(self) -> None:
        self.plan = read_plan(self.directory, self.device)
        forget_peak_memory(self.device)

    def header(self, step: int, checkpoint: Path | None) -> str:
        """Return lines to print at the start: MFU's definition, the prediction if any, the step.

        step: step after which the run starts. checkpoint: the one that the run resumes from, or
        None.
        """
        mfu = f"MFU: of {self.peak / 1e12:.3g} TFLOP/s, at 6N + 12·L·d·s FLOPs per token (PaLM)"
        plan = [] if self.plan is None else [str(self.plan)]
        start = f"start: after step {step:,}" + (f" of {checkpoint}" if checkpoint else "")
        return "\n".join([mfu, *plan, start])

    def run_info(self, layout: Mapping[str, int], execution: str, checkpoint: Path | None) -> Row:
        """Return the facts of a start that `Metrics` records, as JSON values.

        layout: mesh axis → number of ranks. execution: text that says whether the model is compiled
        and why. checkpoint: the one that the run resumes from, or None.
        """
        return {
            "checkpoint": str(checkpoint) if checkpoint else None,
            "layout": {axis: ranks for axis, ranks in layout.items() if ranks > 1},
            "device": self.device.type,
            "compute": execution,
            "tokens_per_step": self.tokens,
            "flops_per_token": self.flops_per_token,
            "peak_flops": self.peak,
            "directory": str(self.directory),
            **run_environment(self.device, self.directory),
        }

    def row(self, seconds: float) -> Row:
        """Return the speed and memory fields of the row of a step that took `seconds`.

        Includes the prediction's fields, if there is one. Increases `peak` if the step exceeded it.
        """
        rate = self.tokens / seconds
        flops = rate * self.flops_per_token
        self.peak = max(self.peak, flops)
        return {
            "tokens_per_second": rate,
            "mfu": flops / self.peak,
            "step_seconds": seconds,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            **(self.plan.row() if self.plan else {}),
        }


class NoOutput:
    """Stand-in for `Metrics` and `Display` on ranks other than 0, which write nothing."""

    def write(self, row: Row) -> None: ...

    def sync(self) -> None: ...

    def log(self, text: str) -> None: ...

    def step(self, row: Row) -> None: ...

    def __enter__(self) -> NoOutput:
        return self

    def __exit__(self, *_: object) -> None: ...


class Display:
    """Context manager that displays a run's progress.

    It is a live line on a terminal, and otherwise a line every few steps.
    """

    def __init__(self, start: int, stop: int, every: int) -> None:
        """Prepare the display.

        start: step after which the run starts. stop: its last step. every: number of steps per
        line, where there is no live line.
        """
        self.stop = stop
        self.every = every
        self._steps = 0
        self._recent: deque[float] = deque(maxlen=21)  # seconds of steps, without the first
        self._live = _live_line() if supports_escapes(sys.stdout) else None
        self._task = (
            self._live.add_task("first step", total=stop, completed=start) if self._live else None
        )

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.stop()

    def log(self, text: str, style: str = "") -> None:
        """Print `text` with control characters escaped, above the live line if there is one.

        style: style of rich, used above a live line only.
        """
        if self._live is not None:
            with contextlib.suppress(OSError):  # a closed terminal does not end the run
                line = escaped(text)
                self._live.console.print(
                    line, style=style, markup=False, highlight=False, soft_wrap=True
                )
        else:
            log(text)

    def step(self, row: Row) -> None:
        """Display a step, and warn once if steps deviate from the plan. row: its row of metrics."""
        self._steps += 1
        if self._steps > 1:  # the first step compiles
            self._recent.append(row["step_seconds"])
        seconds = statistics.median_low(self._recent) if self._recent else None
        warm = self._steps == WARM and "predicted_step_seconds" in row
        if warm and (off := deviation(row | {"step_seconds": seconds})):
            self.log(off, "yellow")
        remaining = None if seconds is None else (self.stop - row["step"]) * seconds
        line = step_line(row, self.stop, remaining)
        if self._live is not None and self._task is not None:
            width = self._live.console.width - BAR_COLUMNS
            short = step_line(row, self.stop, remaining, width)
            self._live.update(self._task, completed=row["step"], description=short)
            skipped = "skipped_steps" in row
            if skipped or "validation_loss" in row:
                self.log(line, "red" if skipped else "")
        elif row["step"] % self.every == 0 or row["step"] == self.stop:
            self.log(line)


def stage_printer(log: Callable[[str], None]) -> Callable[[str, int], None]:
    """Return a progress callback (stage, amount done) that prints each stage once, as it begins.

    log: function that prints a line.
    """
    printed: list[str] = []

    def progress(stage: str, _: int) -> None:
        if stage not in printed:
            printed.append(stage)
            log(f"{stage} …")

    return progress


def step_line(
    row: Row, stop: int, remaining_seconds: float | None, width: int | None = None
) -> str:
    """Format the row of a step in at most `width` columns, omitting the least important values.

    The most important one is always kept. row: row of metrics. stop: last step of the run.
    remaining_seconds: estimated time to the end; None if not known yet. width: None for no limit.
    """
    parts = [  # (importance, the lowest being 0; text)
        (9, f"step {row['step']:,}/{stop:,}"),
        (8, f"loss {row['loss']:.4f}"),
        (3, f"lr {row['lr']:.2e}"),
        (2, f"norm {row['grad_norm']:.2f}"),
        (5, f"{row['tokens_per_second']:,.0f} tok/s"),
        (4, f"MFU {row['mfu']:.1%}"),
    ]
    if remaining_seconds is not None:
        parts.insert(2, (6, f"ETA {duration(remaining_seconds)}"))
    if "predicted_step_seconds" in row:
        real, planned = row["peak_memory_bytes"] / 1e9, row["predicted_peak_memory_bytes"] / 1e9
        parts.append(
            (1, f"{row['step_seconds']:.3g} s, planned {row['predicted_step_seconds']:.3g}")
        )
        parts.append((0, f"{real:.2f} GB, planned {planned:.2f}"))
    if "validation_loss" in row:
        parts.append((7, f"validation {row['validation_loss']:.4f}"))
    if "skipped_steps" in row:
        parts.append((8, "SKIPPED"))
    while width is not None and len(_line(parts)) > width and len(parts) > 1:
        parts.remove(min(parts))
    return _line(parts)


def _line(parts: list[tuple[int, str]]) -> str:
    return " · ".join(text for _, text in parts)


def duration(seconds: float) -> str:
    """Format seconds, rounded, as hours:minutes:seconds "1:06:40", or with days "2d 1:06:40"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}d " * (days > 0) + f"{hour}:{minute:02}:{second:02}"


BAR_COLUMNS = 10 + 1 + 4 + 1  # columns of the bar and the percentage, spaces included


def _live_line() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Column

    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
    columns = (BarColumn(10), TaskProgressColumn(), text)
    return Progress(*columns, console=Console(), transient=True)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _step(line: bytes) -> int | None:
    """Return the step of a line of metrics.jsonl, or None if it is damaged."""
    try:
        step = json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None
