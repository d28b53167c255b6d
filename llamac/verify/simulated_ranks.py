"""Simulate the ranks of a mesh as threads of one process.

Graphs and emitted modules run unchanged: `runtime.distributed.collectives` looks up groups by axis
name and finds simulated ones.
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
"""Seconds that one rank waits for the others of its group."""


class RanksDisagree(Exception):
    """Ranks of one group called different collectives; real ranks would hang."""


def summed(losses: Sequence[Tensor], mesh: Mapping[str, int]) -> Tensor:
    """Return the sum of the ranks' losses, counting tensor-parallel ranks once.

    losses: of all ranks of `mesh`, equal on tensor-parallel ranks.
    """
    return torch.stack(list(losses)).sum(0) / mesh.get("tp", 1)


class _Meeting:
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
            raise RanksDisagree(" against ".join(dict.fromkeys(what for what, _ in found)))
        return [tensor for _, tensor in found]


class SimulatedGroup:
    """Stand-in for the runtime's `Group` of one mesh axis, whose ranks are threads.

    Sums are in rank order, hence deterministic. here: each thread's `coordinates` in the mesh.
    """

    def __init__(self, axis: str, mesh: Mapping[str, int], here: threading.local) -> None:
        self.axis, self.size, self.here = axis, mesh[axis], here
        self.meetings = {self._key(at): _Meeting(self.size) for at in rank_coordinates(mesh)}

    def _key(self, at: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(number for axis, number in at.items() if axis != self.axis)

    @property
    def rank(self) -> int:
        """Return the calling thread's index on the axis."""
        return self.here.coordinates[self.axis]

    def _exchange(self, kind: str, x: Tensor) -> list[Tensor]:
        return self.meetings[self._key(self.here.coordinates)].exchange(self.rank, kind, x)

    def start_all_gather(self, x: Tensor) -> Tensor:
        """Return x of all ranks, concatenated along dim 0."""
        return torch.cat(self._exchange("all_gather", x))

    def start_reduce_scatter(self, x: Tensor) -> Tensor:
        """Return this rank's chunk, along dim 0, of the sum over ranks."""
        return _sum(self._exchange("reduce_scatter", x)).chunk(self.size)[self.rank].clone()

    def start_all_reduce(self, x: Tensor, operation: str) -> Tensor:
        """Return the sum over ranks or, for any other `operation`, the maximum."""
        shown = self._exchange(f"all_reduce {operation}", x)
        return _sum(shown) if operation == "sum" else torch.stack(shown).amax(0)

    def wait(self, x: Tensor) -> Tensor:
        """Return x, the result of a start: simulated transfers end at once."""
        return x


def _sum(tensors: list[Tensor]) -> Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def on_ranks(
    mesh: Mapping[str, int],
    groups: MutableMapping[str, Any],
    function: Callable[[dict[str, int]], T],
) -> list[T]:
    """Call `function(coordinates)` on all ranks of `mesh` concurrently; return results by rank.

    groups: the registry of groups to fill, `GROUPS` of the copy of `collectives` in use. Raises
    the exception of the first rank that failed.
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
                for meeting in group.meetings.values():
                    meeting.barrier.abort()
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
