"""Kill it anywhere: the curve and the weights are those of the run that nothing interrupted."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from .conftest import Trainer, curve, events, rows

AT_STEP_SEVEN = """
write = train.Metrics.write
def act(self, row):
    write(self, row)
    if row["step"] == 7:
        os.kill(os.getpid(), signal.{signal})
train.Metrics.write = act
"""


def same_end(trainer: Trainer, run: Path, straight: Path) -> bool:
    ours, theirs = trainer.weights(run), trainer.weights(straight)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in theirs)


def steps(run: Path) -> list[int]:
    return [row["step"] for row in rows(run)]


def damage(path: Path) -> None:
    file = next((path / "tensors").glob("*.distcp"))
    data = bytearray(file.read_bytes())
    data[-100] ^= 255
    file.write_bytes(data)


@pytest.mark.slow
def test_the_run_learns_and_its_rows_are_complete(trainer, straight):
    recorded = rows(straight)
    expected = "step tokens loss lr grad_norm tokens_per_second mfu peak_memory_bytes step_seconds"
    for row in recorded:
        evaluated = {"validation_loss"} if row["step"] in (5, 10, 12) else set()
        assert row.keys() == set(expected.split()) | evaluated
    assert [row["tokens"] for row in recorded] == [128 * n for n in range(1, 13)]
    assert recorded[-1]["loss"] < recorded[0]["loss"]
    assert recorded[-1]["validation_loss"] < recorded[4]["validation_loss"]


def test_checkpoints_hold_canonical_names_in_fp32_and_only_the_newest_are_kept(trainer, straight):
    names = sorted(path.name for path in (straight / "checkpoints").iterdir())
    assert names == ["step-00000008", "step-00000012"]
    weights = trainer.weights(straight)
    assert {"model.layers.1.attention.wk", "exp_avg.layers.0.feed_forward.w3"} <= weights.keys()
    assert not any("wqkv" in name or "w13" in name for name in weights)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())


@pytest.mark.slow
def test_stopping_at_a_step_and_going_on(trainer, straight, tmp_path):
    for stop in ("5", "9", "12"):
        assert trainer.run(tmp_path, "--steps", stop) == 0
    # Stopping evaluates once more; the curve itself is the same.
    assert [c[:5] for c in curve(tmp_path)] == [c[:5] for c in curve(straight)]
    assert same_end(trainer, tmp_path, straight)


@pytest.mark.slow
def test_kill_9(trainer, straight, tmp_path):
    killed = trainer.process(tmp_path, before=AT_STEP_SEVEN.format(signal="SIGKILL"))
    assert killed.returncode == -signal.SIGKILL
    assert steps(tmp_path) == list(range(1, 8))  # saved up to 4, and three rows to be replaced
    assert trainer.run(tmp_path) == 0
    assert curve(tmp_path) == curve(straight)
    assert same_end(trainer, tmp_path, straight)


@pytest.mark.slow
def test_a_run_records_its_starts_saves_samples_and_stops(fp32, tmp_path):
    killed = fp32.process(tmp_path, before=AT_STEP_SEVEN.format(signal="SIGKILL"))
    assert killed.returncode == -signal.SIGKILL
    assert fp32.run(tmp_path) == 0
    found = [(e["event"], e["step"]) for e in events(tmp_path) if e["event"] != "first_step"]
    assert sorted(found[: found.index(("start", 4))]) == [("sample", 5), ("save", 4), ("start", 0)]
    rest = [("sample", 5), ("sample", 10), ("sample", 12), ("save", 8), ("save", 12)]
    assert sorted(found[found.index(("start", 4)) :]) == [*rest, ("start", 4), ("stop", 12)]
    first, second = (event for event in events(tmp_path) if event["event"] == "start")
    assert first["checkpoint"] is None
    assert second["checkpoint"].endswith("step-00000004")
    assert second["dropped_rows"] == 3
    for start in (first, second):
        assert start["versions"]["torch"] == torch.__version__
        assert start["hardware"]["cores"] == os.cpu_count()
        assert start["peak_flops"] >= 0.1e12
        assert start["layout"] == {}
    again = [event["text"] for event in events(tmp_path) if event["event"] == "sample"]
    assert again[0] == again[1]  # the curve that goes on is the same one


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 0), ("SIGINT", 130)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    fp32, fp32_straight, tmp_path, name, code
):
    before = AT_STEP_SEVEN.format(signal=name)
    stopped = fp32.process(tmp_path, "--resume", "auto", before=before)
    assert stopped.returncode == code, stopped.stderr
    program = f"{sys.executable} {fp32.directory / 'train.py'}"
    assert f"{name}: step 7 is saved, resume with: {program} --run {tmp_path}\n" in stopped.stdout
    assert (tmp_path / "checkpoints" / "step-00000007").is_dir()
    assert fp32.run(tmp_path) == 0
    assert curve(tmp_path) == curve(fp32_straight)
    assert same_end(fp32, tmp_path, fp32_straight)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    trainer, straight, tmp_path, capsys
):
    assert trainer.run(tmp_path) == 0
    damage(tmp_path / "checkpoints" / "step-00000012")
    assert trainer.run(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "checkpoint step-00000012 is damaged" in printed
    assert "step-00000008" in printed
    assert curve(tmp_path) == curve(straight)
    assert same_end(trainer, tmp_path, straight)


def test_a_run_at_its_end_has_nothing_to_do(fp32, tmp_path, capsys):
    assert fp32.run(tmp_path, "--steps", "4") == 0
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert fp32.run(tmp_path, "--steps", "4") == 0
    assert "nothing to do: step 4 is already saved" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_finished_run_goes_on_under_a_longer_constant_schedule(fp32, patched, tmp_path, capsys):
    """The same curve as if it had been so long from the start."""

    def of(steps: int) -> None:
        schedule = {**fp32.train.SCHEDULE, "kind": "constant"}
        curve = fp32.train.SETTINGS | {"schedule": {"steps": steps, **schedule}}
        patched(SCHEDULE=schedule, STEPS=steps, SETTINGS=curve)

    of(4)
    assert fp32.run(tmp_path / "run") == 0
    of(8)
    assert fp32.run(tmp_path / "run", "--steps", "8") == 0
    assert "schedule: 8 steps, raised from 4" in capsys.readouterr().out
    assert fp32.run(tmp_path / "whole", "--steps", "8") == 0
    found = [[row[:5] for row in curve(tmp_path / name)] for name in ("run", "whole")]
    assert found[0] == found[1]
    assert len(found[0]) == 8


@pytest.mark.slow
def test_going_back_to_an_older_checkpoint_replaces_the_curve_from_there(
    fp32, fp32_straight, tmp_path, capsys
):
    assert fp32.run(tmp_path) == 0
    older = tmp_path / "checkpoints" / "step-00000008"
    assert fp32.run(tmp_path, "--resume", str(older), "--steps", "9") == 0
    assert "step-00000012 is later than step 8: moved aside" in capsys.readouterr().out
    assert steps(tmp_path) == list(range(1, 10))
    assert fp32.run(tmp_path) == 0
    assert [c[:5] for c in curve(tmp_path)] == [c[:5] for c in curve(fp32_straight)]
    assert same_end(fp32, tmp_path, fp32_straight)


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_the_run_goes_on_afterwards(fp32, fp32_straight, tmp_path):
    full = """
import resource
commit = train.checkpoint.commit
def limited(run, tensors, state, *rest):
    if state["step"] == 8:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    return commit(run, tensors, state, *rest)
train.checkpoint.commit = limited
"""
    failed = fp32.process(tmp_path, before=full)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: cannot save step 8 ")
    assert failed.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    assert fp32.run(tmp_path) == 0
    assert curve(tmp_path) == curve(fp32_straight)


def test_a_file_where_the_run_should_be_is_one_message(fp32, tmp_path, capsys):
    (tmp_path / "file").touch()
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        assert fp32.run(run) == 1
        assert capsys.readouterr().err.startswith("error: ")


def test_never_does_not_overwrite_a_run(fp32, tmp_path, capsys):
    assert fp32.run(tmp_path, "--resume", "never", "--steps", "1") == 0
    assert fp32.run(tmp_path, "--resume", "never") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "up to step 1" in error
    assert "--run DIR" in error


def test_other_settings_are_refused_by_name(fp32, patched, tmp_path, capsys):
    assert fp32.run(tmp_path, "--steps", "1") == 0
    schedule = {**fp32.train.SCHEDULE, "peak": 0.5}
    patched(SCHEDULE=schedule, SETTINGS=fp32.train.SETTINGS | {"schedule": schedule})
    assert fp32.run(tmp_path) == 1
    assert "schedule.peak: 0.01 → 0.5" in capsys.readouterr().err


def test_other_data_under_the_same_settings_is_refused(fp32, patched, tmp_path, capsys):
    assert fp32.run(tmp_path, "--steps", "1") == 0
    prepare = fp32.train.prepare_for_ranks
    patched(prepare_for_ranks=lambda *a, **k: prepare(*a, **k) | {"sha256": "another"})
    assert fp32.run(tmp_path) == 1
    assert "prepared_data" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluating_and_sampling_do_not_disturb_training(fp32, fp32_straight, patched, tmp_path):
    patched(EVAL_EVERY=1, SAMPLE=fp32.train.SAMPLE | {"max_new_tokens": 2}, CHECKPOINT_EVERY=3)
    assert fp32.run(tmp_path) == 0
    assert [c[:5] for c in curve(tmp_path)] == [c[:5] for c in curve(fp32_straight)]


def test_a_second_trainer_is_turned_away(fp32, tmp_path, capsys):
    with fp32.train.checkpoint.run_lock(tmp_path):
        assert fp32.run(tmp_path) == 1
    assert f"process {os.getpid()}" in capsys.readouterr().err
    assert not (tmp_path / "metrics.jsonl").exists()
