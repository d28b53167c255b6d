"""Emitting into a directory that already holds a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamac.emit.build import BuildError
from llamac.emit.run_directory import update_run_directory
from llamac.runtime.checkpoint.checkpoint import run_lock
from llamac.spec import Spec, load_spec
from llamac.spec.data import Source

pytestmark = pytest.mark.slow


@pytest.fixture
def spec() -> Spec:
    return load_spec("tiny")


@pytest.fixture
def run(tmp_path: Path, spec: Spec) -> Path:
    """A run with a checkpoint."""
    run = tmp_path / "run"
    update_run_directory(run, spec)
    (run / "checkpoints" / "step-00000010").mkdir(parents=True)
    return run


def contents(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in files}


def test_values_the_curve_depends_on_cannot_change_and_nothing_is_written(
    run: Path, spec: Spec
) -> None:
    before = contents(run)
    with pytest.raises(BuildError, match=r"optimizer\.lr was 0\.002, is 0\.001.*-o"):
        update_run_directory(run, spec.replace({"optimizer.lr": 0.001}))
    assert contents(run) == before


def test_other_values_can(run: Path, spec: Spec) -> None:
    update_run_directory(run, spec.replace({"log.every": 3, "data.directory": "elsewhere"}))
    assert "LOG_EVERY = 3" in (run / "train.py").read_text(encoding="utf-8")


def test_what_a_source_is_only_expected_to_give_can(run: Path, spec: Spec) -> None:
    (first, *rest) = spec.data.source
    changed = first.model_copy(update={"unique_tokens": 5_000_000})
    update_run_directory(
        run, spec.replace({"data.source": [changed.toml_values(), *map(_written, rest)]})
    )
    assert "unique_tokens = 5_000_000" in (run / "spec.toml").read_text(encoding="utf-8")


def _written(source: Source) -> dict[str, Any]:
    return source.toml_values()


def test_before_the_first_checkpoint_everything_can(run: Path, spec: Spec) -> None:
    (run / "checkpoints" / "step-00000010").rmdir()
    update_run_directory(run, spec.replace({"optimizer.lr": 0.001}))
    assert "0.001" in (run / "train.py").read_text(encoding="utf-8")


def test_a_run_that_is_being_trained_is_left_alone(run: Path, spec: Spec) -> None:
    before = contents(run)
    with run_lock(run), pytest.raises(BuildError, match="another trainer"):
        update_run_directory(run, spec.replace({"log.every": 3}))
    assert contents(run) == before


def test_a_schedule_may_become_longer_but_not_shorter(run: Path, spec: Spec) -> None:
    steps = spec.total_steps
    before = contents(run)
    with pytest.raises(BuildError, match=f"schedule.steps was {steps}, is {steps - 1}"):
        update_run_directory(run, spec.replace({"schedule.steps": steps - 1}))
    assert contents(run) == before
    update_run_directory(run, spec.replace({"schedule.steps": steps + 1}))
    tokens = (steps + 2) * spec.batch.tokens
    update_run_directory(run, spec.replace({"schedule.steps": None, "schedule.tokens": tokens}))


def test_a_damaged_spec_is_an_error_with_a_way_out(run: Path, spec: Spec) -> None:
    for garbage in (b"[", b"\xff"):
        (run / "spec.toml").write_bytes(garbage)
        with pytest.raises(BuildError, match=r"spec\.toml is damaged .*--overwrite"):
            update_run_directory(run, spec)
    update_run_directory(run, spec, overwrite=True)
    (run / "spec.toml").unlink()
    update_run_directory(run, spec)
