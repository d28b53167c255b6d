"""Checkpoints: whole or absent, checked, kept, locked, and refused under other settings."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from traceback import StackSummary

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from llamac.runtime import durable_files
from llamac.runtime.checkpoint import checkpoint, dcp, integrity
from llamac.runtime.distributed.ranks import Ranks
from llamac.runtime.errors import RunError
from llamac.runtime.train.progress import Progress

SETTINGS = {"seed": 1, "optimizer": {"lr": 0.1, "betas": (0.9, 0.95)}}


def tensors(fill: float) -> dict[str, dict[str, torch.Tensor]]:
    packed = torch.full((6, 4), fill)
    return {"model": {"wq": packed[:4], "wk": packed[4:], "norm": torch.full((3,), fill)}}


def save(run: Path, step: int, keep: int = 10, fill: float | None = None) -> Path:
    progress = Progress(step, 4 * step, 8 * step, skipped_steps=1)
    weights = tensors(step if fill is None else fill)
    return checkpoint.commit(
        run, weights, checkpoint.checkpoint_state(progress, SETTINGS, "hash"), keep
    )


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def damage_something(path: Path) -> None:
    file = next((path / "tensors").glob("*.distcp"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def found(run: Path, resume: str = "auto", said: list[str] | None = None) -> Path | None:
    path, _ = checkpoint.find_resume_point(
        run, resume, SETTINGS, (said if said is not None else []).append
    )
    return path


def test_what_is_saved_is_what_is_loaded(tmp_path):
    path = save(tmp_path, 3)
    into = tensors(0.0)
    state = checkpoint.load(path, into)
    assert all((t == 3.0).all() for t in into["model"].values())
    assert Progress.from_state(state) == Progress(3, 12, 24, skipped_steps=1)
    assert state["spec_sha256"] == "hash"


def test_views_are_stored_as_themselves_not_as_the_tensor_they_show(tmp_path):
    whole = torch.zeros(1000, 1000)
    state = checkpoint.checkpoint_state(Progress(1), {}, "")
    path = checkpoint.commit(tmp_path, {"model": {"w": whole[:1]}}, state, 1)
    assert sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) < whole.nbytes / 10


def test_random_state_comes_back():
    saved = json.loads(json.dumps([checkpoint.random_state()]))
    first = torch.rand(3)
    for ranks in (checkpoint.SINGLE_RANK, Ranks(1, 4)):  # a rank too had what all of them had
        checkpoint.set_random_state(saved, ranks)
        assert torch.equal(torch.rand(3), first)


def test_ranks_that_differ_get_their_own_random_state_back_or_if_others_one_new_one():
    saved = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        saved.append(checkpoint.random_state())

    def drawn(rank: int, size: int) -> float:
        checkpoint.set_random_state(saved, Ranks(rank, size))
        return torch.rand(()).item()

    assert drawn(1, 2) == torch.rand((), generator=torch.Generator().manual_seed(2)).item()
    assert drawn(0, 3) == drawn(2, 3) != drawn(0, 2)


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 100, 15):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000015", "step-00000100"]


@pytest.mark.parametrize(
    ("module", "moment"),
    [(checkpoint, "_flush_tree"), (durable_files, "sha256_of"), (dcp, "save_distributed")],
)
def test_a_save_that_dies_leaves_the_previous_one_and_no_mess_for_long(
    tmp_path, monkeypatch, module, moment
):
    before = save(tmp_path, 1)

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, moment, die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    assert names(tmp_path) == [".writing-step-00000002", "step-00000001"]
    assert found(tmp_path) == before
    assert names(tmp_path) == ["step-00000001"]


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "moment", "error"),
    [
        (checkpoint, "_flush_tree", NO_SPACE),
        (checkpoint, "_flush_tree", RuntimeError("PytorchStreamWriter failed\nframe 1")),
        (dcp, "save_distributed", NO_SPACE),
        (dcp, "save_distributed", RuntimeError("PytorchStreamWriter failed\nframe 1")),
        (dcp, "save_distributed", CheckpointException("", {0: (NO_SPACE, StackSummary())})),
    ],
)
def test_a_save_that_fails_says_why_and_frees_the_space(
    tmp_path, monkeypatch, module, moment, error
):
    save(tmp_path, 1)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(module, moment, fail)
    with pytest.raises(RunError, match=r"cannot save step 2 .*(No space|Writer failed).* resume$"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001"]


def test_a_deletion_that_dies_leaves_nothing_that_looks_like_a_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2, keep=1)
    assert checkpoint.steps(tmp_path) == [2]
    save(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["step-00000003"]


def test_files_and_directories_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    flushed: list[Path] = []
    monkeypatch.setattr(durable_files, "flush", flushed.append)
    final = save(tmp_path, 1)
    written = final.with_name(f".writing-{final.name}")
    expected = {written, *(written / p.relative_to(final) for p in final.rglob("*"))}
    assert set(flushed[:-1]) == expected
    assert flushed[-1] == final.parent


def test_the_newest_whole_one_is_chosen_and_the_fall_is_said(tmp_path):
    save(tmp_path, 1)
    good = save(tmp_path, 2)
    damage_something(save(tmp_path, 3))
    (save(tmp_path, 4) / "state.json").unlink()
    said: list[str] = []
    assert found(tmp_path, said=said) == good
    assert ["step-00000004" in said[0], "step-00000003" in said[1]] == [True, True]
    assert len(said) == 2
    assert all("falling back to the one before" in line for line in said)


@pytest.mark.parametrize("lost", ["tensors/.metadata", "tensors/*.distcp", "state.json"])
def test_a_file_that_the_manifest_does_not_know_of_is_damage(tmp_path, lost):
    path = save(tmp_path, 1)
    manifest = json.loads((path / "MANIFEST.json").read_text())
    for file in path.glob(lost):
        del manifest[str(file.relative_to(path))]
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    assert lost in (integrity.damage(path) or "")


@pytest.mark.parametrize("state", ["", "{", "[]", "{}", "\x00"])
def test_a_state_that_cannot_be_read_is_damage_whatever_its_checksum(tmp_path, state):
    path = save(tmp_path, 1)
    (path / "state.json").write_text(state)
    manifest = json.loads((path / "MANIFEST.json").read_text())
    digest = hashlib.sha256(state.encode()).hexdigest()
    manifest["state.json"] = {"bytes": len(state), "sha256": digest}
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    assert integrity.damage(path)


@pytest.mark.parametrize("manifest", ["", "[]", '{"state.json": 3}', '{"gone": {}}'])
def test_a_manifest_that_makes_no_sense_is_damage(tmp_path, manifest):
    path = save(tmp_path, 1)
    (path / "MANIFEST.json").write_text(manifest)
    assert integrity.damage(path)


def test_if_none_is_whole_nothing_is_overwritten(tmp_path):
    damage_something(save(tmp_path, 1))
    said: list[str] = []
    with pytest.raises(RunError, match="--run DIR"):
        found(tmp_path, said=said)
    assert "step-00000001 is damaged" in said[0]
    assert "falling back" not in said[0]


def test_a_run_without_checkpoints_starts_afresh(tmp_path):
    assert found(tmp_path) is found(tmp_path, "never") is None


def test_never_refuses_a_run_with_checkpoints(tmp_path):
    save(tmp_path, 7)
    with pytest.raises(RunError, match=r"up to step 7.*--run DIR"):
        found(tmp_path, "never")


def test_a_path_is_taken_if_whole_and_of_this_run_or_of_one_without_its_own(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    early, late = save(first, 1), save(first, 2)
    assert found(first, str(early)) == early
    assert found(second, str(late)) == late
    save(second, 1)
    with pytest.raises(RunError, match="of its own"):
        found(second, str(late))
    damage_something(late)
    with pytest.raises(RunError, match="checksum"):
        found(first, str(late))
    with pytest.raises(RunError, match="nowhere"):
        found(first, str(first / "checkpoints" / "nowhere"))


def test_checkpoints_beyond_the_resumed_step_are_set_aside_not_deleted(tmp_path):
    said: list[str] = []
    for _ in range(2):
        for step in (1, 2):
            save(tmp_path, step) if step not in checkpoint.steps(tmp_path) else None
        checkpoint.move_later_aside(tmp_path, 1, said.append)
    assert names(tmp_path) == [
        "aside-step-00000002",
        "aside-step-00000002-2",
        "step-00000001",
    ]
    assert "aside-step-00000002" in said[0]


def test_changed_settings_are_refused_and_each_is_named(tmp_path):
    save(tmp_path, 1)
    now = {"seed": 1, "optimizer": {"lr": 0.2, "betas": (0.9, 0.95), "eps": 1e-8}}
    with pytest.raises(RunError) as error:
        checkpoint.find_resume_point(tmp_path, "auto", now, print)
    assert "optimizer.lr: 0.1 → 0.2" in str(error.value)
    assert "optimizer.eps: nothing → 1e-08" in str(error.value)
    assert "betas" not in str(error.value)
    assert "seed" not in str(error.value)
    assert "--run DIR" in str(error.value)


def test_settings_inside_lists_are_named_too():
    old, new = {"sources": [{"share": 1}]}, {"sources": [{"share": 2}, {"share": 1}]}
    with pytest.raises(RunError, match=r"sources\[0\].share: 1 → 2\n +sources\[1\].share: nothing"):
        checkpoint.require_same_settings(old, new, Path("p"))


def test_two_trainers_cannot_write_one_run(tmp_path):
    with checkpoint.run_lock(tmp_path):
        with (
            pytest.raises(RunError, match=f"process {os.getpid()}.*--run DIR"),
            checkpoint.run_lock(tmp_path),
        ):
            pytest.fail("the second lock was given")
        with checkpoint.run_lock(tmp_path / "another"):
            pass
    with checkpoint.run_lock(tmp_path):
        pass


@pytest.mark.slow
def test_the_lock_goes_with_its_process_even_if_killed(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from llamac.runtime.checkpoint.checkpoint import run_lock
with run_lock(Path({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with checkpoint.run_lock(tmp_path):
        pass


def test_progress_counts_data_of_skipped_steps_and_gives_up_on_a_row_of_them():
    progress = Progress()
    for skipped in (True, True, False, True, True):
        progress.advance(4, 128, 0)
        progress.count_skipped(skipped)
        progress.give_up_after(3)
    assert (progress.step, progress.sequences, progress.tokens) == (5, 20, 640)
    assert (progress.skipped_steps, progress.updates) == (4, 1)
    progress.advance(4, 128, 0)
    progress.count_skipped(True)
    with pytest.raises(RunError, match="last 3 steps, up to step 6"):
        progress.give_up_after(3)


def test_what_is_only_planned_with_is_no_part_of_a_curve() -> None:
    old, new = ({"data": {"sources": [{"share": 1.0, "unique_tokens": n}]}} for n in (5, 6))
    checkpoint.require_same_settings(old, new, Path("p"))


SCHEDULE = {"kind": "cosine", "peak": 0.1, "warmup_steps": 10, "min_ratio": 0.1}


@pytest.mark.parametrize(
    ("kind", "step", "words"),
    [
        ("constant", 100, ""),
        ("cosine", 10, ""),  # of the warm-up alone
        (
            "cosine",
            100,
            ". The cosine schedule is stretched: at step 100 the learning rate becomes "
            "0.055 and was 0.01,",
        ),
        ("wsd", 80, ""),
        ("wsd", 100, "resume from a checkpoint before the decay: --resume PATH"),
    ],
)
def test_a_schedule_may_become_longer_and_what_that_means_is_said(kind, step, words):
    schedule = SCHEDULE | {"kind": kind} | ({"decay": 0.2} if kind == "wsd" else {})
    old, new = ({"schedule": {"steps": steps, **schedule}} for steps in (100, 190))
    said = checkpoint.require_same_settings(old, new, Path("p"), step)
    assert said.startswith("schedule: 190 steps, raised from 100")
    assert words in said
    assert ("stretched" in said) == bool(words)


def test_a_schedule_does_not_become_shorter_or_another():
    old = {"schedule": {"steps": 100, **SCHEDULE}}
    with pytest.raises(RunError, match=r"steps: 100 → 99"):
        checkpoint.require_same_settings(old, {"schedule": {"steps": 99, **SCHEDULE}}, Path("p"))
    other = {"steps": 200, **SCHEDULE, "min_ratio": 0.0}
    with pytest.raises(RunError, match=r"schedule\.min_ratio") as caught:
        checkpoint.require_same_settings(old, {"schedule": other}, Path("p"))
    assert "schedule.steps" not in str(caught.value)


def test_a_run_from_another_one_s_checkpoint_may_learn_otherwise(tmp_path):
    path = save(tmp_path / "old", 3)
    now = SETTINGS | {"optimizer": {"lr": 0.01, "betas": (0.9, 0.95)}}
    with pytest.raises(RunError, match=r"optimizer\.lr: 0\.1 → 0\.01"):
        checkpoint.find_resume_point(tmp_path / "old", str(path), now, print)
    said: list[str] = []
    found, state = checkpoint.find_resume_point(tmp_path / "new", str(path), now, said.append)
    assert found == path
    checkpoint.restore(path, state, tensors(0.0), now, tmp_path / "new", print)
    assert "optimizer.lr: 0.1 → 0.01" in said[0]
    with pytest.raises(RunError, match="seed: 1 → 2"):  # it would be given other data
        checkpoint.find_resume_point(tmp_path / "new", str(path), now | {"seed": 2}, print)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EROFS, "make the directory writable"),
        (errno.EACCES, "make the directory writable"),
        (errno.EIO, "fix that"),
    ],
)
def test_what_the_disk_refuses_is_told_with_its_own_way_out(tmp_path, monkeypatch, number, remedy):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match=rf"{os.strerror(number)}.*: {remedy}"):
        save(tmp_path, 2)


# -- from elsewhere --------------------------------------------------------------------------------


def test_what_stands_in_the_place_of_a_checkpoint_is_no_obstacle(tmp_path):
    """Strays are removed, links as links; a link to a whole checkpoint is one."""
    elsewhere = save(tmp_path / "elsewhere", 3).rename(tmp_path / "three")
    run = tmp_path / "run"
    before = save(run, 1)
    there = run / "checkpoints"
    (there / ".writing-x").write_text("stray")
    (there / ".deleting-y").symlink_to(elsewhere)
    (there / "step-00000002").symlink_to("nowhere")
    (there / "step-²").mkdir()
    (there / "step-00000005").write_text("a file")
    (there / "step-7").mkdir()
    assert found(run) == before
    (there / "step-00000003").symlink_to(elsewhere)
    assert found(run) == there / "step-00000003"
    state = integrity.read_state(elsewhere)
    checkpoint.move_later_aside(run, 4, print)
    checkpoint.commit(run, tensors(4.0), state | {"step": 4}, keep=1)
    assert names(run) == ["aside-step-00000005", "step-00000004", "step-7", "step-²"]
    assert integrity.damage(elsewhere) is None  # only the link to it went


def remade(path: Path) -> None:
    """The manifest of a checkpoint as whoever changed it would make it."""
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "MANIFEST.json"]
    manifest = integrity.manifest_entries(files, path)
    (path / "MANIFEST.json").write_text(json.dumps(manifest))


class Code:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def pickles(mark: Path):
    """Metadata that runs code in one of the ways that pickles have."""
    path, touch = str(mark).encode(), b"cos\nmkdir\n(V%s\ntR." % str(mark).encode()
    yield pickle.dumps(Code(mark))
    yield pickle.dumps({"state_dict_metadata": Code(mark)}, protocol=2)
    yield touch
    yield b"(V%s\nios\nmkdir\n." % path
    yield b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93\x8c" + bytes([len(path)]) + path + b"\x85R."
    for module, name in ((b"builtins", b"eval"), (b"torch", b"load"), (b"torch", b"hub")):
        yield b"c%s\n%s\n(Vx\ntR." % (module, name)
    yield b"ctorch.distributed.checkpoint.metadata\nMetadata\n(N}V__setstate__\ncos\nmkdir\nstb."
    yield b"Nr\xff\xff\xff\x7f."  # tens of gigabytes of nothing
    yield b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00."
    yield b""


def test_a_checkpoint_that_would_run_code_does_not(tmp_path):
    mark = tmp_path / "code-ran"
    path = save(tmp_path / "run", 3)
    count = 0
    for metadata in pickles(mark):
        (path / "tensors" / ".metadata").write_bytes(metadata)
        remade(path)
        assert integrity.damage(path) is None
        with pytest.raises(RunError, match=r"step-00000003 cannot be read: \.metadata is not"):
            checkpoint.load(path, tensors(0.0))
        count += 1
    pickle.loads(next(pickles(mark)))  # such files work
    mark.rmdir()
    assert count == 12
    whole = next((path / "tensors").glob("*.distcp"))
    save(tmp_path / "other", 3)
    (path / "tensors" / ".metadata").write_bytes(
        (tmp_path / "other/checkpoints/step-00000003/tensors/.metadata").read_bytes()
    )
    torch.save(Code(mark), whole)
    remade(path)
    with pytest.raises(RunError, match="cannot be read"):
        checkpoint.load(path, tensors(0.0))
    assert not mark.exists()


def test_metadata_cannot_name_files_elsewhere(tmp_path):
    path = save(tmp_path / "run", 3)
    metadata = path / "tensors" / ".metadata"
    metadata.write_bytes(metadata.read_bytes().replace(b"__0_0.distcp", b"../_0.distcp"))
    remade(path)
    with pytest.raises(RunError, match="names a file outside the checkpoint"):
        checkpoint.load(path, tensors(0.0))


@pytest.mark.parametrize(
    "change",
    [
        {"step": None},
        {"step": "3"},
        {"step": -1},
        {"sequences": 1.5},
        {"tokens": True},
        {"curve": []},
        {"random": {}},
        {"random": [{}]},
        {"random": [{"cpu": "not base 64"}]},
        {"random": [3]},
    ],
    ids=str,
)
def test_a_state_of_wrong_values_is_an_error_that_names_it(tmp_path, change):
    path = save(tmp_path, 3)
    state = json.loads((path / "state.json").read_text()) | change
    (path / "state.json").write_text(json.dumps(state))
    remade(path)

    def resume() -> None:
        _, state = checkpoint.find_resume_point(tmp_path, str(path), SETTINGS, print)
        checkpoint.restore(path, state, tensors(0.0), SETTINGS, tmp_path, print)

    with pytest.raises(RunError, match=r"state"):
        resume()


@pytest.mark.parametrize("name", ["state.json", "MANIFEST.json"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, "\xff", "3", "null", "{}", '{"../../../etc/passwd": {}}']
)
def test_nonsense_falls_back_to_the_checkpoint_before(tmp_path, name, text):
    before, path = save(tmp_path, 1), save(tmp_path, 3)
    (path / name).write_text(text, encoding="latin-1")
    if name == "state.json":
        remade(path)
    said = []
    assert found(tmp_path, said=said) == before
    assert "step-00000003 is damaged" in said[0]


@pytest.mark.parametrize("name", [".lock", "checkpoints"])
def test_a_link_out_of_the_run_is_not_followed(tmp_path, name):
    victim, run = tmp_path / "victim", tmp_path / "run"
    path = save(victim, 3)
    (victim / "checkpoints" / ".writing-x").mkdir()
    (victim / ".lock").write_text("precious")
    run.mkdir()
    (run / name).symlink_to(Path("../victim") / name)
    with pytest.raises((RunError, OSError), match=name), checkpoint.run_lock(run):
        checkpoint.find_resume_point(run, "auto", SETTINGS, print)
    assert (victim / ".lock").read_text() == "precious"
    assert (path.parent / ".writing-x").is_dir()
    with pytest.raises((RunError, OSError)), checkpoint.run_lock(run):
        save(run, 4)


@pytest.mark.parametrize("where", [".", ".lock"])
def test_what_stands_in_the_place_of_the_run_or_its_lock_is_told(where: str, tmp_path: Path):
    run = tmp_path / "run"
    if where == ".":
        run.write_text("")
    else:
        (run / where).mkdir(parents=True)
    with pytest.raises(RunError, match="remove or rename"), checkpoint.run_lock(run):
        pass
