"""The order of a pipeline rank's turns."""

from __future__ import annotations

import pytest

from llamac.passes.analysis.peak_memory import micro_batches_in_flight
from llamac.plan.timeline.pipeline_order import turns

SCHEDULES = [(1, 1, 3), (4, 1, 4), (4, 1, 11), (2, 2, 4), (4, 2, 8), (4, 3, 12), (3, 2, 4)]
schedules = pytest.mark.parametrize(("ranks", "virtual", "micro_batches"), SCHEDULES)


def words(rank: int, ranks: int, virtual: int, micro_batches: int) -> str:
    """`F0 F1 B0 F2 …`, and the stage behind it where a rank has several."""
    order = turns(rank, ranks, virtual, micro_batches)
    chunk = "{0.chunk}" if virtual > 1 else ""
    return " ".join(
        f"{turn.direction[0].upper()}{turn.micro_batch}{chunk.format(turn)}" for turn in order
    )


def test_one_rank_takes_each_micro_batch_there_and_back() -> None:
    assert words(0, 1, 1, 3) == "F0 B0 F1 B1 F2 B2"


def test_1f1b_warms_up_by_as_many_turns_as_there_are_ranks_behind() -> None:
    assert words(0, 3, 1, 4) == "F0 F1 F2 B0 F3 B1 B2 B3"
    assert words(2, 3, 1, 4) == "F0 B0 F1 B1 F2 B2 F3 B3"


def test_interleaved_takes_a_round_of_micro_batches_through_each_stage() -> None:
    # Narayanan et al. 2021, figure 4, the last of two ranks with two stages each.
    assert words(1, 2, 2, 2) == "F00 F10 F01 B01 F11 B11 B00 B10"


@schedules
def test_every_micro_batch_goes_through_every_stage_both_ways_in_order(
    ranks: int, virtual: int, micro_batches: int
) -> None:
    for rank in range(ranks):
        order = turns(rank, ranks, virtual, micro_batches)
        for chunk in range(virtual):
            for way in ("forward", "backward"):
                own = [t.micro_batch for t in order if (t.chunk, t.direction) == (chunk, way)]
                assert own == list(range(micro_batches))
        place = {(t.direction, t.chunk, t.micro_batch): n for n, t in enumerate(order)}
        for (way, chunk, micro_batch), number in place.items():
            if way == "backward":
                assert place["forward", chunk, micro_batch] < number


@schedules
def test_as_many_micro_batches_wait_as_memory_is_counted_for(
    ranks: int, virtual: int, micro_batches: int
) -> None:
    for rank in range(ranks):
        waiting = most = 0
        for turn in turns(rank, ranks, virtual, micro_batches):
            waiting += 1 if turn.direction == "forward" else -1
            most = max(most, waiting)
        assert most / virtual <= micro_batches_in_flight(rank, ranks, virtual, micro_batches)
