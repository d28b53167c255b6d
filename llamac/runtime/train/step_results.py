"""Results of training steps, copied from the device while it computes the next step."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ..distributed.mesh import Mesh
    from .metrics import Speed
    from .progress import Progress
    from .trackers import Row


class _Copy(NamedTuple):
    """Asynchronous copy of one step's result to the host.

    values: float32 on the CPU: mean loss, gradient norm, skipped, stop, and those of `names`.
    copied: event that marks the end of the copy; None if the values are there.
    """

    step: int
    tokens: int
    lr: float
    names: tuple[str, ...]
    values: Tensor
    copied: torch.cuda.Event | None


class StepResults:
    """Queue of the results of steps, which are read `delay` steps later.

    Reading a result synchronises with the device, which is then idle until the next step's first
    kernels are enqueued. On a GPU, a result is therefore copied to pinned memory after the kernels
    of its step, and read once the next step is enqueued. On a CPU it is read at once.

    delay: 1 on a GPU, else 0. stopping: whether a rank received a signal to stop; becomes true at
    the same step on all ranks.
    """

    def __init__(self, device: torch.device, progress: Progress, speed: Speed) -> None:
        self.delay = 1 if device.type == "cuda" else 0
        self.progress, self.speed, self.stopping = progress, speed, False
        self._waiting: deque[_Copy] = deque()
        self._stop: Tensor | None = None  # to be read with the next result
        self._since = time.perf_counter()

    def begin(self) -> None:
        """Start timing a step, unless an earlier one is still running, at whose end it starts."""
        if not self._waiting:
            self._since = time.perf_counter()

    def add(self, lr: float, outcome: Tensor, extra: Mapping[str, Tensor] | None = None) -> None:
        """Enqueue the result of a step. Call this before `progress.advance` counts the step.

        lr: learning rate of the step. outcome: float32 [3] from `MixedPrecisionOptimizer.step`.
        extra: further scalars of its row of metrics, by name.
        """
        stop, self._stop = self._stop, None
        extra = extra or {}
        stop = outcome.new_zeros(()) if stop is None else stop
        values = torch.cat([outcome, torch.stack([stop, *(v.to(stop) for v in extra.values())])])
        values, copied = values.to("cpu", non_blocking=True), None  # to pinned memory
        if outcome.device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record()
        step, tokens = self.progress.step + 1, self.progress.tokens + self.speed.tokens
        self._waiting.append(_Copy(step, tokens, lr, (*extra,), values, copied))

    def stop_if(self, requested: bool, mesh: Mesh) -> None:
        """Set `stopping` if any rank requests it: at once, or with the next step's result.

        All ranks call this.
        """
        if self.delay == 0:
            self.stopping = mesh.any(requested)
        else:
            self._stop = mesh.any_on_device(requested)

    def read(self, now: bool) -> list[Row]:
        """Return the rows of metrics of the steps whose results are due, the oldest first.

        now: read all results, as before an evaluation or a checkpoint; once `stopping` is set, all
        are read too. Counts skipped steps in `progress`.
        """
        rows: list[Row] = []
        while len(self._waiting) > (0 if now or self.stopping else self.delay):
            step, tokens, lr, names, values, copied = self._waiting.popleft()
            if copied is not None:
                copied.synchronize()  # the only wait for the device in a step
            loss, grad_norm, skipped, stop, *extra = values.tolist()
            self.stopping = self.stopping or stop > 0
            self.progress.count_skipped(skipped > 0)
            since, self._since = self._since, time.perf_counter()
            row: Row = {"step": step, "tokens": tokens, "loss": loss, "lr": lr}
            row |= {"grad_norm": grad_norm} | self.speed.row(self._since - since)
            row |= dict(zip(names, extra, strict=True))
            row |= {"skipped_steps": self.progress.skipped_steps} if skipped else {}
            rows.append(row)
        return rows
