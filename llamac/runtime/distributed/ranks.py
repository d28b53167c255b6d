"""Coordination of a run's processes: an error on one rank is raised on all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch.distributed as dist

from ..errors import RunError

T = TypeVar("T")
PREPARE_TIMEOUT = timedelta(hours=12)
"""Timeout of the group: ranks wait while the first one prepares the data for all."""


@dataclass(frozen=True)
class Ranks:
    """All ranks of a run as seen from one of them.

    rank: number of this one. size: number of ranks. group: process group over which they exchange
    results; None for a single process. Methods are collectives: every rank must call the same
    ones in the same order, and each call synchronises the ranks.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def world(cls) -> Ranks:
        """Create a gloo group of all ranks, and return them. All ranks call this.

        As the group is separate, its traffic neither delays the collectives of training nor mixes
        with those of another thread. Without a process group, returns a single rank.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PREPARE_TIMEOUT))
        return cls(dist.get_rank(), dist.get_world_size(), group)

    def on_each(self, work: Callable[[], T]) -> list[T]:
        """Run `work` on every rank and return all results, in order of rank, on every rank.

        Results are pickled. If `work` raises RunError, OSError or ValueError on any rank, all ranks
        raise RunError with the message of the lowest such rank. Also raises RunError if the
        connection to a rank is lost. Without a group, errors of `work` are raised unchanged.
        """
        if self.group is None:
            return [work()]
        result, error = None, None
        try:
            result = work()
        except (RunError, OSError, ValueError) as raised:
            error = raised
        gathered: list[tuple[T, str | None]] = [(cast(T, None), None)] * self.size
        try:
            outcome = (result, None if error is None else str(error))
            dist.all_gather_object(gathered, outcome, self.group)
        except RuntimeError as lost:
            reason = str(lost).splitlines()[0]
            raise RunError(
                f"rank {self.rank} lost its connection to another rank: {reason}"
            ) from lost
        for rank, (_, message) in enumerate(gathered):
            if message is not None:
                raise RunError(message, printing_rank=rank) from error
        return [value for value, _ in gathered]

    def on_first(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 only; return its result on all ranks.

        Errors are raised on all ranks, as in `on_each`.
        """
        return self.on_each(lambda: work() if self.rank == 0 else cast(T, None))[0]
