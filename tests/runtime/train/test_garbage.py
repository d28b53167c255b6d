"""The garbage collector runs between steps, at set ones."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from llamac.runtime.train.garbage import GarbageCollection


@pytest.fixture(autouse=True)
def _session_frozen() -> None:
    gc.freeze()  # it collects garbage: only its own, not the test session's


@pytest.fixture
def runs() -> Iterator[list[int]]:
    """The generations that were collected, in order."""
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)


def test_it_runs_at_set_steps_only(runs: list[int]) -> None:
    with GarbageCollection(every=3) as garbage:
        runs.clear()
        for step in range(1, 8):
            _ = [[] for _ in range(10_000)]  # enough for the collector to come by itself
            garbage.after_step(step)
        assert runs == [2, 2]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_it_is_on_again_after_an_error() -> None:
    garbage = GarbageCollection()
    garbage.__enter__()
    assert not gc.isenabled()
    garbage.__exit__(KeyError, KeyError(), None)
    assert gc.isenabled()
