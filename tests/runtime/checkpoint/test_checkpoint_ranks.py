"""Checkpoints of several processes: any layout reads any other's, and a rank's end ends nothing."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from llamac.runtime import durable_files
from llamac.runtime.checkpoint import checkpoint, dcp, integrity
from llamac.runtime.checkpoint.async_saver import CheckpointSaver
from llamac.runtime.checkpoint.dcp import TensorChunk, Tensors
from llamac.runtime.distributed.ranks import Ranks
from llamac.runtime.errors import RunError
from llamac.runtime.train.progress import Progress

WHOLE = {"wq": torch.arange(96.0).reshape(8, 12), "norm": torch.arange(12.0) / 3}
MOMENTS = {name: tensor + 1000 for name, tensor in WHOLE.items()}

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["torch.distributed", "llamac.runtime.checkpoint.async_saver"])


def run(work: Callable[..., None], size: int, tmp_path: Path, *args: object) -> list[int | None]:
    """The exit codes of `size` ranks that do `work(ranks, run directory, *args)`."""
    store = tmp_path / f"store-{len(list(tmp_path.glob('store-*')))}"
    ranks = [
        processes.Process(target=_start, args=(work, rank, size, store, tmp_path / "run", *args))
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        process.kill()
        process.join()
    return [process.exitcode for process in ranks]


def _start(
    work: Callable[..., None], rank: int, size: int, store: Path, directory: Path, *args: object
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    ranks = Ranks.world()
    work(ranks, directory, *args)
    dist.destroy_process_group()


def split(dim: int, ranks: Ranks, fill: float | None = None) -> Tensors:
    """Each tensor in parts along `dim`, vectors as copies; moments of `norm` on the last rank."""

    def part(whole: Tensor) -> Tensor | TensorChunk:
        if fill is not None:
            whole = torch.full_like(whole, fill)
        if whole.ndim == 1:
            return whole.clone()
        rows = whole.shape[dim] // ranks.size
        offsets = [0, 0]
        offsets[dim] = ranks.rank * rows
        return TensorChunk(
            whole.narrow(dim, offsets[dim], rows), tuple(whole.shape), tuple(offsets)
        )

    model = {name: part(whole) for name, whole in WHOLE.items()}
    moments = {"wq": part(MOMENTS["wq"])}
    if ranks.rank == ranks.size - 1:
        moments["norm"] = part(MOMENTS["norm"])
    return {"model": model, "exp_avg": moments}


def assert_equal(one: Tensors, other: Tensors) -> None:
    for section, parts in one.items():
        for name, part in parts.items():
            expected = dcp.as_chunk(other[section][name]).tensor
            assert torch.equal(dcp.as_chunk(part).tensor, expected), name


def save(ranks: Ranks, directory: Path, step: int, dim: int = 0) -> Path:
    return checkpoint.commit(directory, split(dim, ranks), state(step), 9, ranks)


def state(step: int) -> dict[str, Any]:
    return checkpoint.checkpoint_state(Progress(step), {}, "")


def save_and_wait(saver: CheckpointSaver, directory: Path, tensors: Tensors, step: int) -> None:
    saver.save(directory, tensors, Progress(step), {}, "")
    saver.wait()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


def resume(ranks: Ranks, directory: Path, dim: int) -> None:
    said: list[str] = []
    with checkpoint.run_lock(directory, ranks):
        path, state = checkpoint.find_resume_point(directory, "auto", {}, said.append, ranks)
        assert path is not None
        assert state["step"] == 2
        assert bool(said) == (ranks.rank == 0)  # of the damaged one after it
        into = split(dim, ranks, fill=-1.0)
        checkpoint.load(path, into, ranks)
        assert_equal(into, split(dim, ranks))


def find_with_trouble(ranks: Ranks, directory: Path) -> None:
    """What one rank cannot do, all are told."""
    with pytest.raises(RunError, match="already has checkpoints, up to step 3"):
        checkpoint.find_resume_point(directory, "never", {}, print, ranks)
    name = "gone" if ranks.rank == 1 else "wq"
    asked = {"model": {name: torch.zeros(8, 12)}}
    with pytest.raises(RunError, match=r"cannot be read: it has no tensor model\.gone"):
        checkpoint.load(checkpoint.checkpoint_path(directory, 2), asked, ranks)
    with (
        pytest.raises(RunError, match="another trainer"),
        checkpoint.run_lock(directory, ranks),
    ):
        pytest.fail("the run was locked twice")


def check_in_shares(ranks: Ranks, directory: Path) -> None:
    """Every file is read by one rank, and what any finds, all are told."""
    path = save(ranks, directory, 9)
    read = set[Path]()
    sha256 = durable_files.sha256_of
    durable_files.sha256_of = lambda path: (read.add(path), sha256(path))[1]
    assert integrity.damage(path, ranks) is None
    every = [file for part in ranks.on_each(lambda: read) for file in part]
    manifest = path / "MANIFEST.json"
    assert sorted([*every, manifest]) == sorted(p for p in path.rglob("*") if p.is_file())
    ranks.on_first(lambda: (path / "state.json").write_text("{"))
    problems = ranks.on_each(lambda: integrity.damage(path))
    assert integrity.damage(path, ranks) in problems


def test_ranks_share_the_work_of_checking(tmp_path):
    assert run(check_in_shares, 2, tmp_path) == [0, 0]


def save_and_resume(ranks: Ranks, directory: Path) -> None:
    torch.manual_seed(ranks.rank)
    save(ranks, directory, 2)
    first = torch.rand(3)
    save(ranks, directory, 3)
    if ranks.rank == 0:
        next((directory / "checkpoints" / "step-00000003" / "tensors").glob("__3_*")).unlink()
    resume(ranks, directory, dim=1)
    checkpoint.set_random_state(
        integrity.read_state(checkpoint.checkpoint_path(directory, 2))["random"], ranks
    )
    assert torch.equal(torch.rand(3), first)


def test_rows_of_four_ranks_become_columns_of_two_and_the_whole_of_one(tmp_path):
    assert run(save_and_resume, 4, tmp_path) == [0] * 4
    assert run(resume, 2, tmp_path, 1) == [0] * 2
    resume(Ranks(), tmp_path / "run", 0)
    with checkpoint.run_lock(tmp_path / "run"):
        assert run(find_with_trouble, 2, tmp_path) == [0] * 2


def full_disk(ranks: Ranks, directory: Path, background: bool) -> None:
    save(ranks, directory, 1)
    failing = {"wq": torch.zeros(1 << 16)} if ranks.rank else {"norm": torch.zeros(3)}
    with CheckpointSaver(9, background) as saver:
        if ranks.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, resource.RLIM_INFINITY))
        with pytest.raises(RunError, match=r"cannot save step 2 .*File too large") as error:
            save_and_wait(saver, directory, {"model": failing}, 2)
        assert len(set(ranks.on_each(lambda: str(error.value)))) == 1
        assert ranks.on_each(lambda: names(directory)) == [["step-00000001"]] * 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        save_and_wait(saver, directory, {"model": failing}, 2)
    assert names(directory) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_is_full_for_one_rank_fails_the_save_of_all_and_leaves_nothing(
    tmp_path, background
):
    assert run(full_disk, 2, tmp_path, background) == [0, 0]


def incomplete(ranks: Ranks, directory: Path) -> None:
    parts = split(0, ranks)
    if ranks.rank:
        parts = {"model": {"norm": WHOLE["norm"]}}
    with pytest.raises(RunError, match=r"step 1 .* hold 48 of the 96 elements of model.wq$"):
        checkpoint.commit(directory, {"model": parts["model"]}, state(1), 9, ranks)
    ranks.on_each(lambda: None)  # the first one has cleared up
    assert ranks.on_each(lambda: names(directory)) == [[], []]
    save(ranks, directory, 1)


def test_a_tensor_that_the_ranks_do_not_hold_all_of_is_not_saved(tmp_path):
    assert run(incomplete, 2, tmp_path) == [0, 0]


MOMENTS_OF_DEATH = [
    (1, dcp, "save_distributed"),  # before anything is written
    (1, dcp.Writer, "write_data"),  # its plan is with the others
    (0, dcp.Writer, "finish"),  # all parts are written, what they are is not
    (1, durable_files, "sha256_of"),  # the tensors are whole
    (0, checkpoint, "finalize"),
    (0, checkpoint, "_flush_tree"),  # only the name is missing
]


def killed(ranks: Ranks, directory: Path, moment: int, background: bool) -> None:
    with CheckpointSaver(9, background) as saver:
        save_and_wait(saver, directory, split(0, ranks), 1)
        who, place, name = MOMENTS_OF_DEATH[moment]
        assert hasattr(place, name)
        if ranks.rank == who:
            setattr(place, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(RunError, match=r"cannot save step 2 .* lost its connection"):
            save_and_wait(saver, directory, split(0, ranks), 2)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("moment", range(len(MOMENTS_OF_DEATH)))
def test_a_rank_killed_while_saving_leaves_the_checkpoint_before(tmp_path, moment, background):
    expected = [0, 0]
    expected[MOMENTS_OF_DEATH[moment][0]] = -signal.SIGKILL
    assert run(killed, 2, tmp_path, moment, background) == expected
    directory = tmp_path / "run"
    assert checkpoint.steps(directory) == [1]
    path, _ = checkpoint.find_resume_point(directory, "auto", {}, print)
    assert path is not None
    assert names(directory) == ["step-00000001"]
    into = split(0, Ranks(), fill=-1.0)
    checkpoint.load(path, into)
    assert_equal(into, split(0, Ranks()))
