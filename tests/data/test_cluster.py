"""The script for SLURM runs the same steps, in tasks, and ends with the same bytes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llamac.cli import main
from llamac.data.cluster import parse_task, run_task, slurm_script
from llamac.data.prepare import preparation_steps, record_settings
from llamac.runtime.errors import RunError
from tests.data.preparing import hashes, preparation, prepared, write_corpus, write_spec

# Stands in for a cluster: notes how it was called, and runs each task of the array at once.
SBATCH = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$CALLS"
for option in "$@"; do
    case $option in
        --array=*) last=${option#--array=0-} ;;
        --wrap=*) script=${option#--wrap=} ;;
    esac
done
for task in $(seq 0 "$last"); do
    SLURM_ARRAY_TASK_ID=$task sh -c "$script" >&2 || exit 1
done
wc -l < "$CALLS"
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "web", files=3, documents=25)
    return folder


@pytest.mark.slow
def test_tasks_of_steps_give_the_bytes_of_one_process(corpus: Path, tmp_path: Path) -> None:
    spec = write_spec(corpus)
    prepared(spec, tmp_path / "one")
    plan = preparation(spec, tmp_path / "many")
    record_settings(plan)
    todo = preparation_steps(plan)
    assert len(todo[0].jobs) > 3
    for number in range(len(todo)):
        assert sum(run_task(todo, number, task, 3) for task in range(3)) == len(todo[number].jobs)
    unlike = {".verified.json", "manifest.json"}  # the one process has looked at what it made
    one, many = hashes(tmp_path / "one"), hashes(tmp_path / "many")
    assert {k: one[k] for k in one.keys() - unlike} == {k: many[k] for k in many.keys() - unlike}
    assert one["manifest.json"] == many["manifest.json"]


def test_a_step_does_not_begin_before_the_one_before_has_ended(
    corpus: Path, tmp_path: Path
) -> None:
    plan = preparation(write_spec(corpus), tmp_path)
    todo = preparation_steps(plan)
    run_task(todo, 0, 0, 3)
    with pytest.raises(
        RunError, match=r"[1-9]\d* of \d+ jobs of step 0 \(reading\) are unfinished"
    ):
        run_task(todo, 1, 0, 1)


def test_the_script_names_each_step_with_as_many_tasks_as_it_has_jobs(
    corpus: Path, tmp_path: Path
) -> None:
    todo = preparation_steps(preparation(write_spec(corpus), tmp_path))
    script = slurm_script(todo, ["data", "prepare", "a spec's.toml"], 2, "--partition=big")
    submitted = [line for line in script.splitlines() if line.startswith("step ")]
    assert submitted[:2] == ["step 0 2 reading", "step 1 2 'exact_dedup: scanning'"]
    assert submitted[2] == "step 2 1 'exact_dedup: merging'"
    assert len(submitted) == len(todo)
    assert "options=(--partition=big)" in script


@pytest.mark.slow
def test_submitted_it_prepares(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script itself, with something in SLURM's place."""
    spec, run = write_spec(corpus, stages=""), tmp_path / "a run"
    arguments = ["data", "prepare", str(spec), "--set", f'data.directory="{run}"']
    assert main([*arguments, "--render", "slurm", "--tasks", "2", "--options", "--time=9"]) == 0
    script, sbatch = tmp_path / "prepare.sh", tmp_path / "sbatch"
    script.write_text(capsys.readouterr().out)
    sbatch.write_text(SBATCH)
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IEXEC)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
    }
    done = subprocess.run(
        ["bash", str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all("--time=9" in call for call in calls)
    assert ["--dependency=afterok:" in call for call in calls] == [False] + [True] * (
        len(calls) - 1
    )
    assert (run / "manifest.json").exists()


@pytest.mark.parametrize("text", ["3", "3/3", "4/3", "a/3", "-1/3", "/"])
def test_a_task_is_one_of_its_number(text: str) -> None:
    assert parse_task("2/3") == (2, 3)
    with pytest.raises(ValueError, match="is not a task"):
        parse_task(text)


def test_without_ray_its_engine_says_what_to_install(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["data", "prepare", str(write_spec(corpus)), "--run", str(tmp_path)]
    assert main([*arguments, "--engine", "ray"]) == 1
    assert "pip install 'llamac[ray]'" in capsys.readouterr().err
