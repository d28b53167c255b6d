"""Time a piece of work on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

ROUNDS = 5  # of which the best counts
LEAST = 0.03  # seconds of a round


def seconds_per_run(run: Callable[[], object], kind: str, count: int = 0) -> float:
    """Return seconds per run: the best of rounds of `count` runs; 0 chooses the count."""

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
    count = count or max(1, int(LEAST / max(round_of(1), 1e-7)))
    return min(round_of(count) for _ in range(ROUNDS))
