"""The processes of a run acting as one: what one of them cannot do, none of them has done."""

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
    """All ranks of a run, seen from one of them; without a group, a process by itself.

    Every rank calls the same methods in the same order. They wait for each other.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def world(cls) -> Ranks:
        """Return every process of torch.distributed, over a new gloo group; all of them call this.

        The group is of this object alone: what it carries can neither delay the collectives of
        training nor be mixed up with those of another thread. It needs no GPU.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PREPARING))
        return cls(dist.get_rank(), dist.get_world_size(), group)

    def each(self, work: Callable[[], T]) -> list[T]:
        """Return what `work` returns on every rank, by rank, once all have done it.

        If it raises RunError, OSError or ValueError on one, all raise a RunError with what the
        lowest of those ranks had to say. Raises RunError as well if a rank is gone.
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
            raise RunError(f"rank {self.rank} lost touch with another one: {reason}") from lost
        problems = ((rank, said) for rank, (_, said) in enumerate(gathered) if said is not None)
        for rank, said in problems:
            raise RunError(said, teller=rank) from error
        return [value for value, _ in gathered]

    def first(self, work: Callable[[], T]) -> T:
        """Return what `work` returns on rank 0, which alone does it; errors as those of `each`."""
        return self.each(lambda: work() if self.rank == 0 else cast(T, None))[0]
