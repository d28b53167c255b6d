"""Time a function on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

ROUNDS = 5  # the best one counts
MIN_SECONDS = 0.03  # minimum duration of a round


def seconds_per_run(run: Callable[[], object], kind: str, count: int = 0) -> float:
    """Return the seconds per call of `run`, the best of several rounds.

    A first call is not timed. kind: "cpu" or "cuda". count: calls per round; 0 chooses enough of
    them for `MIN_SECONDS`.
    """

    def wait() -> None:
        if kind == "cuda":
            torch.cuda.synchronize()

    def round_of(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            run()
        wait()
        return (time.perf_counter() - begin) / count

    run()
    wait()
    count = count or max(1, int(MIN_SECONDS / max(round_of(1), 1e-7)))
    return min(round_of(count) for _ in range(ROUNDS))
