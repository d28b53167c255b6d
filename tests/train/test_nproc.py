"""`llamac train --nproc N`: what it starts, and what it says where N does not fit the spec."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from llamac.cli import main, train
from llamac.spec import load_spec
from llamac.spec.parallel import Parallel


class Started(Exception):
    """In place of the process that `exec` would have become."""

    exit_code = 77


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The command line that `llamac train` would have become; the directory is not built."""
    command: list[str] = []

    def become(_: str, arguments: list[str]) -> None:
        command.extend(arguments)
        raise Started

    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setattr("llamac.emit.run_directory.update_run_directory", lambda *_, **__: [])
    with patch.dict(os.environ):  # not another object: rich keeps the one it sees first
        yield command


def with_degrees(monkeypatch: pytest.MonkeyPatch, **degrees: int) -> None:
    spec = load_spec("tiny", ["launch.max_restarts=2", "launch.grace=40s"])
    spec = spec.model_copy(update={"parallel": Parallel.model_construct(None, **degrees)})
    monkeypatch.setattr(train, "load", lambda *_, **__: spec)


@pytest.mark.parametrize("nproc", [[], ["--nproc", "4"]], ids=["from the spec", "said again"])
def test_several_ranks_are_started_by_torchrun(started, monkeypatch, tmp_path, nproc):
    with_degrees(monkeypatch, data_shard=2, data_replicate=2)
    run = ["-o", str(tmp_path), "--resume", "never", "--steps", "3"]
    assert main(["train", "tiny", *nproc, *run]) == 77
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    assert started[:6] == [*torchrun, "--nproc-per-node=4", "--max-restarts=2"]
    assert started[6:] == ["--", str(tmp_path / "train.py"), "--resume", "never", "--steps", "3"]
    assert os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "40"


@pytest.mark.parametrize("nproc", [[], ["--nproc", "1"]], ids=["from the spec", "said again"])
def test_one_rank_is_plain_python(started, nproc):
    assert main(["train", "tiny", *nproc]) == 77
    assert started == [sys.executable, str(Path("runs/tiny/train.py")), "--resume", "auto"]


@pytest.mark.parametrize(
    ("degrees", "nproc", "message"),
    [
        (
            {},
            ["--nproc", "2"],
            "tiny needs one process, but --nproc is 2: to train on 2 ranks, add "
            "--set parallel.data_shard=2",
        ),
        (
            {"data_shard": 2, "data_replicate": 2},
            ["--nproc", "2"],
            "tiny needs 4 processes, but --nproc is 2: use --nproc 4, or degrees in [parallel] "
            "that multiply to 2",
        ),
        (
            {"data_shard": 32},
            [],
            "the 32 ranks of tiny need 4 nodes of 8: use `llamac launch`, or --nproc 32 to start "
            "all of them here",
        ),
    ],
)
def test_other_numbers_are_refused_before_anything_is_built(
    started, monkeypatch, capsys, degrees, nproc, message
):
    with_degrees(monkeypatch, **degrees)
    assert main(["train", "tiny", *nproc]) == 2
    assert capsys.readouterr().err == f"llamac train: {message}\n"
    assert not started
