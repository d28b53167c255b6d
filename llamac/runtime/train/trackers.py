"""Send a run's metrics to experiment trackers: TensorBoard, Weights & Biases, Trackio.

All are optional: an error of a tracker is reported once, and the run continues without it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from .. import durable_files
from ..machine import log

Row = dict[str, Any]  # row of metrics: `step` and values by name
PATIENCE = 30.0  # seconds to wait at the end of a run for queued rows


class Tracker(Protocol):
    """Receiver of a run's rows of metrics; its methods never raise."""

    def write(self, row: Row) -> None:
        """Record a row of metrics for its `step`; other values may be None."""
        ...

    def close(self) -> None:
        """Finish writing, at the end of a run."""
        ...


def open_trackers(
    run: Path,
    resumed: int,
    about: Mapping[str, Any],
    tensorboard: bool = False,
    wandb: str | None = None,
    trackio: str | None = None,
) -> list[Tracker]:
    """Open the trackers that a spec's [log] enables.

    run: run directory. resumed: step after which the run resumes, 0 at its start. about: facts of
    the run's start, with its `id`; online trackers show them as its config. wandb, trackio: name of
    the project; None disables the tracker.
    """
    opened: list[Tracker] = [TensorBoardTracker(run, resumed)] if tensorboard else []
    config = {"id": about.get("id"), "run": str(run.resolve()), **about}
    shared = {"resume": "allow", "name": run.resolve().name, "config": config}
    if wandb:
        options = {"project": wandb, "id": about.get("id"), "dir": str(run), **shared}
        opened.append(OnlineTracker("wandb", options))
    if trackio:
        opened.append(OnlineTracker("trackio", {"project": trackio, **shared}))
    return opened


class TensorBoardTracker:
    """Writer of TensorBoard files in RUN/tensorboard, disabled by its first error.

    resumed: step after which the run resumes; TensorBoard hides earlier rows of later steps.
    """

    def __init__(self, run: Path, resumed: int) -> None:
        self._writer: Any = None
        with self._optional():
            from torch.utils.tensorboard import SummaryWriter

            directory = durable_files.path_within(run, "tensorboard")
            self._writer = SummaryWriter(str(directory), purge_step=resumed + 1)

    def write(self, row: Row) -> None:
        with self._optional():
            for name, value in row.items():
                if name != "step" and self._writer is not None:
                    self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        with self._optional():
            if self._writer is not None:
                self._writer.close()

    @contextlib.contextmanager
    def _optional(self) -> Iterator[None]:
        """Context manager that disables the writer on any exception of TensorBoard's thread."""
        try:
            yield
        except Exception as error:
            self._writer = None
            log(f"TensorBoard's files cannot be written ({error}): the run continues without them")


class OnlineTracker:
    """Session of a package with wandb's interface, in a thread of its own.

    An unresponsive service therefore delays no step. Rows are queued, and `close` waits for at most
    `PATIENCE` seconds. package: name of the module, "wandb" or "trackio". options: arguments of its
    `init`.
    """

    def __init__(self, package: str, options: Mapping[str, Any]) -> None:
        self.package, self.options = package, options
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def write(self, row: Row) -> None:
        if self._thread.is_alive():
            self._rows.put(row)

    def close(self) -> None:
        self._rows.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            log(
                f"{self.package} did not accept all rows within {PATIENCE:.0f} s: metrics.jsonl "
                "has them"
            )

    def _work(self) -> None:
        try:
            module = importlib.import_module(self.package)
            session = module.init(**self.options, **self._offline(module))
            while (row := self._rows.get()) is not None:
                known = {name: value for name, value in row.items() if value is not None}
                session.log(known, step=row["step"])
            session.finish()
        except BaseException as error:  # a service may raise anything, or exit
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            log(f"{self.package} does not work here ({reason}): the run continues without it")

    def _offline(self, module: Any) -> dict[str, str]:
        """Return wandb's offline mode for users who are not logged in, for a later `wandb sync`."""
        if self.package != "wandb" or "WANDB_MODE" in os.environ or module.api.api_key:
            return {}
        log(
            "wandb: not logged in, so rows are kept in the run directory; upload them with `wandb "
            "sync`"
        )
        return {"mode": "offline"}
