"""Order of forward and backward passes on a pipeline rank, as in torch.distributed.pipelining."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llamac.plan.cost.data_parallel import Direction
from llamac.spec.parallel import micro_batches_per_round


@dataclass(frozen=True)
class Turn:
    """One pass of a micro-batch through a stage.

    chunk: index of the stage among the pipeline rank's. micro_batch: index in the step.
    """

    direction: Direction
    chunk: int
    micro_batch: int


def turns(rank: int, ranks: int, virtual: int, micro_batches: int) -> list[Turn]:
    """Return the forward and backward passes of a pipeline rank in one step, in order.

    With one stage per rank (virtual = 1) this is 1F1B (Narayanan et al. 2019), else interleaved
    1F1B (Narayanan et al. 2021).

    ranks: number of pipeline ranks. virtual: stages per rank.
    """
    round_size = micro_batches_per_round(micro_batches, ranks) if virtual > 1 else micro_batches
    count = micro_batches * virtual
    warm_up_count = warm_up(rank, ranks, virtual, micro_batches)

    def turn(number: int, direction: Direction) -> Turn:
        rounds, position = divmod(number, round_size * virtual)
        chunk = position // round_size
        if direction == "backward":
            chunk = virtual - 1 - chunk
        return Turn(direction, chunk, rounds * round_size + position % round_size)

    def all_turns() -> Iterator[Turn]:
        yield from (turn(number, "forward") for number in range(warm_up_count))
        for number in range(count - warm_up_count):
            yield turn(warm_up_count + number, "forward")
            yield turn(number, "backward")
        yield from (turn(number, "backward") for number in range(count - warm_up_count, count))

    return list(all_turns())


def warm_up(rank: int, ranks: int, virtual: int, micro_batches: int) -> int:
    """Return the number of forward passes in a pipeline rank's warm-up phase of 1F1B.

    ranks: number of pipeline ranks. virtual: stages per rank; over 1 for interleaved 1F1B.
    """
    if virtual == 1:
        return min(micro_batches, ranks - rank - 1)
    round_size = micro_batches_per_round(micro_batches, ranks)
    return min(micro_batches * virtual, (virtual - 1) * round_size + 2 * (ranks - rank - 1))
