"""Order in which a pipeline rank runs its stages, as in torch.distributed.pipelining."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llamac.plan.cost.data_parallel import Direction
from llamac.spec.parallel import micro_batches_per_round


@dataclass(frozen=True)
class Turn:
    """One micro-batch through one of a rank's stages, `chunk`, in one direction."""

    direction: Direction
    chunk: int
    micro_batch: int


def turns(rank: int, ranks: int, virtual: int, micro_batches: int) -> list[Turn]:
    """Return the turns of a pipeline rank in one step.

    With one stage per rank it is 1F1B, which alternates forward and backward on a single rank
    (Narayanan et al. 2019); with several, interleaved 1F1B (Narayanan et al. 2021).
    """
    each = micro_batches_per_round(micro_batches, ranks) if virtual > 1 else micro_batches
    count = micro_batches * virtual
    ahead = warm_up(rank, ranks, virtual, micro_batches)

    def turn(number: int, direction: Direction) -> Turn:
        rounds, within = divmod(number, each * virtual)
        chunk = within // each
        if direction == "backward":
            chunk = virtual - 1 - chunk
        return Turn(direction, chunk, rounds * each + within % each)

    def all_turns() -> Iterator[Turn]:
        yield from (turn(number, "forward") for number in range(ahead))
        for number in range(count - ahead):
            yield turn(ahead + number, "forward")
            yield turn(number, "backward")
        yield from (turn(number, "backward") for number in range(count - ahead, count))

    return list(all_turns())


def warm_up(rank: int, ranks: int, virtual: int, micro_batches: int) -> int:
    """Return the number of forward turns in the warm-up phase of 1F1B."""
    if virtual == 1:
        return min(micro_batches, ranks - rank - 1)
    each = micro_batches_per_round(micro_batches, ranks)
    return min(micro_batches * virtual, (virtual - 1) * each + 2 * (ranks - rank - 1))
