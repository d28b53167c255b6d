"""Saving in the background: training goes on, and what is saved is the moment of the call."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from llamac.runtime.checkpoint import checkpoint, dcp
from llamac.runtime.checkpoint.async_saver import CheckpointSaver
from llamac.runtime.errors import RunError
from llamac.runtime.train.progress import Progress


class SlowDisk:
    """`dcp.write` that takes until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.free = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.write = dcp.write
        monkeypatch.setattr(dcp, "write", self)

    def __call__(self, *args) -> None:
        self.reached.set()
        assert self.free.wait(30)
        if self.error:
            raise self.error
        self.write(*args)


@pytest.fixture
def disk(monkeypatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


def save(saver: CheckpointSaver, run: Path, weights: torch.Tensor, progress: Progress) -> None:
    saver.save(run, {"model": {"w": weights}}, progress, {}, "")


def test_training_goes_on_while_the_disk_is_slow_and_does_not_reach_into_the_checkpoint(
    tmp_path, disk
):
    weights, progress = torch.ones(4), Progress(1)
    torch.manual_seed(0)
    with CheckpointSaver(9, asynchronous=True) as saver:
        save(saver, tmp_path, weights, progress)
        assert disk.reached.wait(30)
        weights.fill_(2)  # the next steps
        progress.advance(1, 1, 0)
        drawn = torch.rand(3)
        assert checkpoint.steps(tmp_path) == []
        disk.free.set()
    assert checkpoint.steps(tmp_path) == [1]
    into = torch.zeros(4)
    state = checkpoint.load(checkpoint.checkpoint_path(tmp_path, 1), {"model": {"w": into}})
    assert (into == 1).all()
    assert Progress.from_state(state) == Progress(1)
    checkpoint.set_random_state(state["random"])
    assert torch.equal(torch.rand(3), drawn)


def test_the_next_save_waits_and_both_are_whole(tmp_path, disk):
    weights = torch.ones(4)
    with CheckpointSaver(9, asynchronous=True) as saver:
        save(saver, tmp_path, weights, Progress(1))
        threading.Timer(0.1, disk.free.set).start()
        save(saver, tmp_path, weights.fill_(2), Progress(2))
        assert 1 in checkpoint.steps(tmp_path)
        saver.wait()
        assert checkpoint.steps(tmp_path) == [1, 2]
    for step in (1, 2):
        checkpoint.load(checkpoint.checkpoint_path(tmp_path, step), {"model": {"w": weights}})
        assert (weights == step).all()


@pytest.mark.parametrize("end", ["save", "wait", "exit"])
def test_an_error_in_the_background_is_raised_once_in_the_foreground(tmp_path, disk, end):
    def train() -> None:
        with saver:
            save(saver, tmp_path, torch.ones(4), Progress(1))
            if end == "save":
                save(saver, tmp_path, torch.ones(4), Progress(2))
            elif end == "wait":
                saver.wait()

    saver = CheckpointSaver(9, asynchronous=True)
    disk.error = OSError("No space left on device")
    disk.free.set()
    with pytest.raises(RunError, match=r"cannot save step 1 .*No space"):
        train()
    saver.wait()
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("error", [None, OSError("No space left on device")])
def test_an_error_of_training_waits_for_the_disk_and_is_the_one_to_be_told(tmp_path, disk, error):
    def train() -> None:
        with CheckpointSaver(9, asynchronous=True) as saver:
            save(saver, tmp_path, torch.ones(4), Progress(1))
            threading.Timer(0.1, disk.free.set).start()
            raise KeyError("training")

    disk.error = error
    with pytest.raises(KeyError, match="training"):
        train()
    assert checkpoint.steps(tmp_path) == ([] if error else [1])


def test_not_asynchronous_it_is_done_when_it_returns(tmp_path):
    with CheckpointSaver(9, asynchronous=False) as saver:
        save(saver, tmp_path, torch.ones(4), Progress(1))
        assert checkpoint.steps(tmp_path) == [1]
