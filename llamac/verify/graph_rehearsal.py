"""Stand-in for CUDA graphs that runs on the CPU and computes what replays would compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class GraphRehearsal:
    """Recorder for the trainer's `CudaGraph` that runs the captured Python again on each replay.

    As with a CUDA graph, a capture computes nothing; a replay reads the tensors that the captured
    call read and overwrites the output that the capture returned. A replay fails if gradients are
    no longer at the addresses they had at the capture, to which a graph would add.

    runs, captures, replays: number of calls so far.
    """

    def __init__(self, optimizer: Any, fails: bool = False) -> None:
        """Create a recorder.

        optimizer: the trainer's, into whose masters' gradients captured calls accumulate.
        fails: whether captures raise an error, as unsupported work does on CUDA.
        """
        self.optimizer, self.fails = optimizer, fails
        self.runs = self.captures = self.replays = 0

    def run(self, work: Callable[[], Tensor]) -> Tensor:
        """Call `work` without capturing, as in a warm-up, and return its result."""
        self.runs += 1
        return work()

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Return a function that replays `work`, and the loss tensor that each replay overwrites.

        The loss is NaN until the first replay, and gradients are as before the call. Raises
        RuntimeError, as CUDA does, if `fails` is set, and AssertionError without gradients.

        work: accumulates gradients and returns the loss.
        """
        self.captures += 1
        before = [gradient.clone() for gradient in self._gradients()]
        addresses = [gradient.data_ptr() for gradient in self._gradients()]
        loss = work().clone()
        for gradient, old in zip(self._gradients(), before, strict=True):
            gradient.copy_(old)
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

        def replay() -> None:
            self.replays += 1
            if [gradient.data_ptr() for gradient in self._gradients()] != addresses:
                raise AssertionError("gradients have moved since the capture")
            loss.copy_(work())

        return replay, loss.fill_(torch.nan)

    def _gradients(self) -> list[Tensor]:
        masters = self.optimizer.masters
        missing = [name for name, master in masters.items() if master.grad is None]
        if missing:
            raise AssertionError(f"no gradient of {missing[0]} to add to")
        return [master.grad for master in masters.values()]
