"""A sample of `python -m tests.faults`: each class of faults, at a few places."""

from __future__ import annotations

import pytest

from tests.faults.classes import CLASSES, Tried

pytestmark = pytest.mark.slow

# Starts of each class; those of a class that starts torchrun, or four trainers each, are fewer.
TRIALS = {"torchrun killed": 1, "killed at random, three times": 3, "stopped by a signal": 4}


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return Tried(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", CLASSES)
def test_a_few_of_each_class_are_held(name: str, tried: Tried) -> None:
    outcomes = list(CLASSES[name](tried, TRIALS.get(name, 6)))
    assert [outcome for outcome in outcomes if outcome not in ("same", "error")] == []
    assert outcomes or name == "a full disk"  # which needs the right to mount


def test_the_undisturbed_run_is_the_same_each_time(tried: Tried) -> None:
    run = tried.fresh()
    assert tried.judged(run, tried.subject.start(run)) == "same"


def test_what_is_not_held_is_seen(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit that nobody checks is trained on: the harness must say so."""
    run = tried.fresh(tried.halfway)
    monkeypatch.setattr(tried.subject, "build", lambda _: None)
    program = run / "train.py"
    program.write_text(
        program.read_text().replace("SEED + 1", "SEED").replace("lr = ", "lr = 2 * ")
    )
    assert tried.judged(run, tried.subject.start(run)) == "trained something else"
