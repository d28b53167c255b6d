"""Simulate the ranks of a mesh as threads of one process.

Graphs and emitted modules run unchanged: `runtime.distributed.collectives` looks up groups by axis
name, and finds simulated ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from llamac.ir.shards import rank_coordinates

T = TypeVar("T")
TIMEOUT = 120.0
"""Seconds that a rank waits for the others of its group."""


class CollectiveMismatch(Exception):
    """Ranks of one group called different collectives, or with different shapes or dtypes.

    Real ranks would hang.
    """


def sum_losses(losses: Sequence[Tensor], mesh: Mapping[str, int]) -> Tensor:
    """Return the sum of the ranks' losses, counting tensor-parallel ranks once.

    losses: losses of all ranks, equal on tensor-parallel ranks. mesh: number of ranks on each axis.
    """
    return torch.stack(list(losses)).sum(0) / mesh.get("tp", 1)


class _Exchange:
    """Barrier at which the ranks of one group exchange tensors."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=TIMEOUT)
        self.shown: list[tuple[str, Tensor]] = [("", torch.empty(0))] * size

    def exchange(self, rank: int, kind: str, x: Tensor) -> list[Tensor]:
        self.shown[rank] = (f"{kind} of {x.dtype} {list(x.shape)}", x.detach().clone())
        self.barrier.wait()
        found = list(self.shown)
        self.barrier.wait()
        if len({what for what, _ in found}) > 1:
            raise CollectiveMismatch(" against ".join(dict.fromkeys(what for what, _ in found)))
        return [tensor for _, tensor in found]


class SimulatedGroup:
    """Stand-in for the runtime's `Group` of one mesh axis, whose ranks are threads.

    Sums are computed in rank order and are therefore deterministic. Collectives raise
    CollectiveMismatch.

    axis: the group's axis. mesh: number of ranks on each axis.
    here: thread-local storage with each thread's `coordinates` in the mesh.
    """

    def __init__(self, axis: str, mesh: Mapping[str, int], here: threading.local) -> None:
        self.axis, self.size, self.here = axis, mesh[axis], here
        self.exchanges = {self._key(at): _Exchange(self.size) for at in rank_coordinates(mesh)}

    def _key(self, at: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(number for axis, number in at.items() if axis != self.axis)

    @property
    def rank(self) -> int:
        """Index of the calling thread on the axis."""
        return self.here.coordinates[self.axis]

    def _exchange(self, kind: str, x: Tensor) -> list[Tensor]:
        return self.exchanges[self._key(self.here.coordinates)].exchange(self.rank, kind, x)

    def start_all_gather(self, x: Tensor) -> Tensor:
        """Return x of all ranks, concatenated along dim 0."""
        return torch.cat(self._exchange("all_gather", x))

    def start_reduce_scatter(self, x: Tensor) -> Tensor:
        """Return this rank's chunk, along dim 0, of the sum over ranks."""
        return _sum(self._exchange("reduce_scatter", x)).chunk(self.size)[self.rank].clone()

    def start_all_reduce(self, x: Tensor, operation: str) -> Tensor:
        """Return the sum over ranks, or the maximum unless `operation` is `sum`."""
        shown = self._exchange(f"all_reduce {operation}", x)
        return _sum(shown) if operation == "sum" else torch.stack(shown).amax(0)

    def wait(self, x: Tensor) -> Tensor:
        """Return x unchanged: simulated collectives are complete when they return."""
        return x


def _sum(tensors: list[Tensor]) -> Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def run_on_ranks(
    mesh: Mapping[str, int],
    groups: MutableMapping[str, Any],
    function: Callable[[dict[str, int]], T],
) -> list[T]:
    """Call `function(coordinates)` on all ranks concurrently, and return the results by rank.

    Raises the exception of the first rank that failed. Ranks are in the order of
    `rank_coordinates(mesh)`.

    mesh: number of ranks on each axis.
    groups: registry in which the groups are looked up (`collectives.GROUPS`); it is filled with
    simulated groups and restored afterwards.
    function: receives the rank's index on each axis.
    """
    here = threading.local()
    simulated = {axis: SimulatedGroup(axis, mesh, here) for axis in mesh}
    failures: list[BaseException] = []

    def run(at: dict[str, int]) -> T:
        here.coordinates = at
        try:
            return function(at)
        except BaseException as error:
            if not isinstance(error, threading.BrokenBarrierError):
                failures.append(error)
            for group in simulated.values():
                for exchange in group.exchanges.values():
                    exchange.barrier.abort()
            raise

    before = dict(groups)
    groups.update(simulated)
    try:
        with ThreadPoolExecutor(len(rank_coordinates(mesh))) as pool:
            jobs = [pool.submit(run, at) for at in rank_coordinates(mesh)]
        if failures:
            raise failures[0]
        return [job.result() for job in jobs]
    finally:
        groups.clear()
        groups.update(before)
