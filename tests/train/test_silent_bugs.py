"""Faults of training that raise no error: each is put in, and the trainer must stop and say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Trainer


@pytest.fixture
def begun(fp32: Trainer, tmp_path: Path) -> Path:
    """A run of six steps, the last of which is saved."""
    assert fp32.run(tmp_path, "--steps", "6") == 0
    return tmp_path


def test_data_that_starts_again_at_a_resume(fp32, begun, monkeypatch, capsys):
    progress = fp32.train.checkpoint.Progress
    from_state = progress.from_state

    def forgetful(state):
        found = from_state(state)
        found.sequences = 0
        return found

    monkeypatch.setattr(progress, "from_state", forgetful)
    assert fp32.run(begun) == 1
    assert "the data does not continue where step 6 left it" in capsys.readouterr().err


def test_data_in_another_order_after_a_resume(fp32, begun, patched, capsys):
    mixture = fp32.train.Mixture
    patched(Mixture=lambda directory, split, length, seed: mixture(directory, split, length, 9))
    assert fp32.run(begun) == 1
    assert "the next sequence is not the one recorded in the checkpoint" in capsys.readouterr().err


def test_moments_that_are_not_loaded(fp32, begun, monkeypatch, capsys):
    checkpoint = fp32.train.checkpoint
    restore = checkpoint.restore

    def weights_alone(found, state, chunks, *rest):
        restore(found, state, {"model": chunks["model"]}, *rest)

    monkeypatch.setattr(checkpoint, "restore", weights_alone)
    assert fp32.run(begun) == 1
    assert "after 6 updates the checkpoint's exp_avg is all zeros" in capsys.readouterr().err


@pytest.mark.parametrize("trainer", ["bf16"], indirect=True)
def test_weights_that_are_not_brought_up_to_date(trainer, monkeypatch, tmp_path, capsys):
    weights, stale = trainer.train.ShardedOptimizer, []
    monkeypatch.setattr(weights, "round_to_model", lambda self: stale.append(self))
    assert trainer.run(tmp_path) == 1
    assert "tok_embeddings that differs from its rounded float32 master" in capsys.readouterr().err
    assert stale
    assert not list((tmp_path / "checkpoints").glob("step-*"))


COPIES = {
    "weights initialised by each rank's own seed": (
        ("parallel.data_replicate=2",),
        "train.SEED += int(os.environ['RANK'])",
    ),
    "gains whose gradients are not added under sequence parallelism": (
        ("parallel.tensor=2", "checkpoint.every=2"),
        "train.ShardedOptimizer._sum_over_tensor_ranks = lambda self: None",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", COPIES)
def test_copies_that_differ(start_ranks, fault, make_spec, tmp_path):
    changes, before = COPIES[fault]
    spec = make_spec('precision.compute="fp32"', "batch.micro_batch=1", *changes)
    done = start_ranks(tmp_path / "program", spec, tmp_path / "run", before=before)
    assert done.returncode != 0
    assert "ranks 0 and 1 hold different copies of the same weights" in done.stderr
    assert not list((tmp_path / "run/checkpoints").glob("step-*"))
