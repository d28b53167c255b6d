"""`llamac launch`: what it starts, what it refuses, and how local.sh runs several ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llamac.cli import main
from llamac.emit.trainer import render_trainer
from llamac.launch import backends
from llamac.spec import SpecError, load_spec
from llamac.spec.parallel import Parallel
from tests.emit.conftest import SMALL

RANK = """
import os, pathlib, signal, sys, time

def stop(*_):
    pathlib.Path(f"saved-{rank}").touch()
    time.sleep({seconds_to_save})
    pathlib.Path(f"saved-{rank}").write_text("whole")
    sys.exit(0)

rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
signal.signal(signal.SIGTERM, stop)
started = os.environ["TORCHELASTIC_RESTART_COUNT"]
pathlib.Path(f"rank-{rank}-of-{size}-start-{started}").write_text(os.environ["LOCAL_RANK"])
if (rank, started) == ("1", "0"):
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep({seconds_to_train})
"""


def two_ranks(directory: Path, train: str) -> list[str]:
    """The command that runs this train.py on two ranks."""
    spec = load_spec("tiny", ["launch.max_restarts=1"])
    spec = spec.model_copy(update={"parallel": Parallel.model_construct(data_shard=2)})
    (directory / "launch").mkdir()
    script = directory / "launch" / "local.sh"
    script.write_text(render_trainer(spec)["launch/local.sh"])
    (directory / "train.py").write_text(train)
    return ["bash", str(script)]


def program(directory: Path, name: str, body: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/bash\n{body}\n")
    (directory / name).chmod(0o755)


def names(directory: Path, pattern: str) -> set[str]:
    return {path.name for path in directory.glob(pattern)}


@pytest.mark.slow
def test_a_killed_rank_restarts_all_of_them(tmp_path: Path) -> None:
    train = RANK.replace("{seconds_to_train}", "1 if started == '1' else 60")
    command = two_ranks(tmp_path, train.replace("{seconds_to_save}", "0"))
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=60, check=False)
    assert done.returncode == 0
    starts = {f"rank-{rank}-of-2-start-{start}" for rank in "01" for start in "01"}
    assert starts - {"rank-0-of-2-start-0"} <= names(tmp_path, "rank-*")  # 0 may not have begun
    assert (tmp_path / "rank-1-of-2-start-1").read_text() == "1"


@pytest.mark.slow
def test_a_signal_reaches_every_rank_and_leaves_it_time_to_save(tmp_path: Path) -> None:
    train = RANK.replace('== ("1", "0")', '== ("never", "")').replace("{seconds_to_train}", "60")
    command = two_ranks(tmp_path, train.replace("{seconds_to_save}", "1"))
    environment = os.environ | {"PYTHON": sys.executable}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 40
    while len(names(tmp_path, "rank-*")) < 2 and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0  # interrupted is not done
    assert {path.read_text() for path in tmp_path.glob("saved-*")} == {"whole"}
    assert names(tmp_path, "saved-*") == {"saved-0", "saved-1"}


def test_rendering_prints_or_writes_the_file_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = render_trainer(load_spec("tiny"))["launch/slurm.sbatch"]
    assert main(["launch", "tiny", "--backend", "slurm", "--render"]) == 0
    assert capsys.readouterr().out == wanted
    assert main(["launch", "tiny", "--backend", "slurm", "--render", "-o", "job"]) == 0
    assert (tmp_path / "job").read_text().startswith(f"{wanted}# made by llamac ")
    assert names(tmp_path, "*") == {"job"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "tool", "arguments"),
    [
        ("slurm", "sbatch", ["launch/slurm.sbatch"]),
        ("kubernetes", "kubectl", ["apply", "-f", "launch/kubernetes.yaml"]),
        ("skypilot", "sky", ["launch", "--yes", "--cluster", "tiny", "launch/skypilot.yaml"]),
    ],
)
def test_a_cluster_s_tool_is_run_in_the_run_directory(
    backend: str,
    tool: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    body = f'echo "$PWD"; printf "%s\\n" "$@"; [[ -f {arguments[-1]} && -f train.py ]] && exit 7'
    program(tmp_path / "bin", tool, body)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    overrides = [*SMALL, "launch.image=a/b", "launch.volume=runs"]
    options = [part for override in overrides for part in ("--set", override)]
    run = tmp_path / "run"
    assert main(["launch", "tiny", "--backend", backend, "-o", str(run), *options]) == 7
    assert capfd.readouterr().out.splitlines() == [str(run), *arguments]


@pytest.mark.slow
def test_the_local_script_is_run_where_the_person_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program(tmp_path / "bin", "python", 'echo "$PWD $1"; exit 5')
    monkeypatch.setenv("PYTHON", str(tmp_path / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    options = [part for override in SMALL for part in ("--set", override)]
    assert main(["launch", "tiny", "--backend", "local", *options]) == 5
    assert capfd.readouterr().out == f"{tmp_path} runs/tiny/launch/../train.py\n"


@pytest.mark.parametrize(
    ("backend", "tool"), [("slurm", "sbatch"), ("kubernetes", "kubectl"), ("skypilot", "sky")]
)
def test_a_tool_that_is_not_there_is_one_clear_error(
    backend: str,
    tool: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run = tmp_path / "run"
    options = ["--set", "launch.image=a/b", "--set", "launch.volume=runs"]
    assert main(["launch", "tiny", "--backend", backend, "-o", str(run), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"llamac launch: `{tool}` is not on this machine's PATH")
    assert error.count("\n") == 1
    assert not run.exists()


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("local", "its 16 ranks need 2 nodes of 8 GPUs: use a cluster backend"),
        ("kubernetes", "set launch.image and launch.volume"),
        ("skypilot", "set launch.volume, on which all nodes find the checkpoints"),
    ],
)
def test_a_backend_says_what_the_spec_lacks(backend: str, message: str) -> None:
    spec = load_spec("tiny").model_copy(
        update={"parallel": Parallel.model_construct(data_shard=16)}
    )
    with pytest.raises(backends.LaunchError, match=f"tiny cannot start on {backend}: {message}"):
        backends.require_backend(backend, spec)


def test_skypilot_is_told_which_gpu_where_the_spec_needs_one() -> None:
    spec = load_spec("tiny", ["hardware.device=cuda"])
    with pytest.raises(backends.LaunchError, match="the GPU under SkyPilot"):
        backends.require_backend("skypilot", spec)
    backends.require_backend("skypilot", load_spec("tiny", ["hardware.gpu=h100-sxm"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["launch.time_limit=1 week"], 'must be a time such as "30m", "24h", "2d" or 3600'),
        (["launch.time_limit=90s", "launch.grace=30s"], "SLURM counts whole minutes"),
        (["launch.time_limit=5m"], "leaves no time to train"),
        (["launch.grace=1d"], "longer than SLURM's signals allow"),
        (["launch.grace=0s"], "grace"),
        (["launch.gpus_per_node=3", "parallel.tensor=4"], "gpus_per_node = 2 works"),
    ],
)
def test_impossible_requests_are_refused_with_a_way_out(overrides: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec("tiny", overrides)


def test_times_are_seconds_however_they_are_written() -> None:
    launch = load_spec("tiny", ["launch.time_limit=2d", "launch.grace=90"]).launch
    assert (launch.time_limit, launch.grace) == (172_800, 90)
