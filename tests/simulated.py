"""The ranks of one mesh axis as threads of this process: to test what they compute together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from llamac.runtime import collectives


class ThreadGroup:
    """Ranks that meet at a barrier to read each other's tensors."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=60)
        self.shown: list[Tensor] = [torch.empty(0)] * size
        self.local = threading.local()

    @property
    def rank(self) -> int:
        return self.local.rank

    def exchange(self, x: Tensor) -> list[Tensor]:
        """Every rank's `x`."""
        self.shown[self.rank] = x.clone()
        self.barrier.wait()
        found = list(self.shown)
        self.barrier.wait()
        return found

    def start_all_gather(self, x: Tensor) -> Tensor:
        return torch.cat(self.exchange(x))

    def start_reduce_scatter(self, x: Tensor) -> Tensor:
        return self.start_all_reduce(x, "sum").chunk(self.size)[self.rank]

    def start_all_reduce(self, x: Tensor, operation: str) -> Tensor:
        every = torch.stack(self.exchange(x))
        return every.sum(0) if operation == "sum" else every.amax(0)

    def wait(self, x: Tensor) -> Tensor:
        return x


def on_ranks(size: int, axis: str, function: Callable[[int], Any]) -> list[Any]:
    """`function(rank)` on every rank of `axis` at once: their results, or the first failure."""
    group = ThreadGroup(size)

    def run(rank: int) -> Any:
        group.local.rank = rank
        try:
            return function(rank)
        except BaseException:
            group.barrier.abort()
            raise

    before = collectives.GROUPS.get(axis)
    collectives.GROUPS[axis] = group
    try:
        with ThreadPoolExecutor(size) as threads:
            ranks = [threads.submit(run, rank) for rank in range(size)]
        failures = [failure for rank in ranks if (failure := rank.exception())]
        for failure in failures:
            if not isinstance(failure, threading.BrokenBarrierError):  # that follows from another
                raise failure
        return [rank.result() for rank in ranks]
    finally:
        del collectives.GROUPS[axis]
        if before is not None:
            collectives.GROUPS[axis] = before
