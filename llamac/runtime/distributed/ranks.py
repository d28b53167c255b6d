"""Coordination of a run's processes: an error on one rank is raised on all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch.distributed as dist

from ..errors import RunError

T = TypeVar("T")
PREPARING = timedelta(hours=12)
"""How long ranks wait for the first one: it prepares the data for all."""


@dataclass(frozen=True)
class Ranks:
    """All ranks of a run as seen from one; without a group, a single process.

    Every rank must call the same methods in the same order; each call synchronises them.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def world(cls) -> Ranks:
        """Return all processes of torch.distributed over a new gloo group; all ranks call this.

        The group is separate, so its traffic neither delays the collectives of training nor mixes
        with those of another thread. It needs no GPU.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PREPARING))
        return cls(dist.get_rank(), dist.get_world_size(), group)

    def on_each(self, work: Callable[[], T]) -> list[T]:
        """Run `work` on every rank and return the results by rank.

        If it raises RunError, OSError or ValueError on a rank, all raise RunError with the message
        of the lowest such rank. Also raises RunError if a rank has died.
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
            mine = (result, None if error is None else str(error))
            dist.all_gather_object(gathered, mine, self.group)
        except RuntimeError as lost:
            reason = str(lost).splitlines()[0]
            raise RunError(
                f"rank {self.rank} lost its connection to another rank: {reason}"
            ) from lost
        problems = ((rank, said) for rank, (_, said) in enumerate(gathered) if said is not None)
        for rank, said in problems:
            raise RunError(said, teller=rank) from error
        return [value for value, _ in gathered]

    def on_first(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 only and return its result on all ranks; errors as in `on_each`."""
        return self.on_each(lambda: work() if self.rank == 0 else cast(T, None))[0]
