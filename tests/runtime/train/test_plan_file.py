"""What plan.json predicted, beside what is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llamac.runtime.train.metrics import Display, Speed
from llamac.runtime.train.plan_file import MAX_DEVIATION, WARM, deviation, read_plan

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def planned(directory: Path, kind: str = "cpu") -> Path:
    text = {
        "device": "my",
        "kind": kind,
        "step_seconds": 2.0,
        "memory": {"per_gpu": {"overhead": 1_000_000_000, "total": 5_000_000_000}},
    }
    (directory / "plan.json").write_text(json.dumps(text))
    return directory


def row(seconds: float = 2.0, nbytes: float = 5e9, step: int = 1) -> dict[str, float]:
    shown = {"loss": 1.0, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 10.0, "mfu": 0.5}
    measured = {"step": step, "step_seconds": seconds, "peak_memory_bytes": nbytes}
    return shown | measured | {"predicted_step_seconds": 2.0, "predicted_peak_memory_bytes": 5e9}


def test_a_process_is_compared_whole_and_a_gpu_without_what_no_allocator_gives(tmp_path) -> None:
    on_cpu = read_plan(planned(tmp_path), CPU)
    assert on_cpu is not None
    assert (on_cpu.step_seconds, on_cpu.peak_memory_bytes) == (2.0, 5e9)
    on_gpu = read_plan(planned(tmp_path, "gpu"), GPU)
    assert on_gpu is not None
    assert on_gpu.peak_memory_bytes == 4e9


@pytest.mark.parametrize(("kind", "device"), [("gpu", CPU), ("cpu", GPU)])
def test_what_is_planned_for_another_kind_of_device_is_not_compared(tmp_path, kind, device) -> None:
    assert read_plan(planned(tmp_path, kind), device) is None


def test_a_directory_may_have_no_plan(tmp_path) -> None:
    assert read_plan(tmp_path, CPU) is None
    speed = Speed(tokens=10, flops_per_token=1, peak=1e9, device=CPU, directory=tmp_path)
    assert "predicted_step_seconds" not in speed.row(1.0)
    assert "plan" not in speed.header(0, None)


def test_rows_hold_both_side_by_side(tmp_path) -> None:
    speed = Speed(10, flops_per_token=1, peak=1e9, device=CPU, directory=planned(tmp_path))
    found = speed.row(1.0)
    assert (found["step_seconds"], found["predicted_step_seconds"]) == (1.0, 2.0)
    assert found["predicted_peak_memory_bytes"] == 5e9
    assert found["peak_memory_bytes"] > 0
    assert "plan: for my, a step takes 2 s and holds 5.00 GB" in speed.header(0, None)


def test_a_deviation_is_said_in_one_line_with_the_way_out() -> None:
    assert deviation(row(2.0 * (1 + MAX_DEVIATION - 0.01), 5e9 * (1 - MAX_DEVIATION + 0.01))) == ""
    said = deviation(row(3.0))
    assert said.startswith("off the plan: a step takes 50% more than planned (3 s, not 2)")
    assert "memory" not in said
    assert "llamac plan --calibrate" in said
    assert "\n" not in said
    assert "memory peaks 20% less than planned (4.00 GB, not 5.00)" in deviation(row(2.0, 4e9))


def test_it_is_said_once_when_the_run_is_warm(capsys) -> None:
    with Display(0, 100, every=1000) as display:
        for step in range(1, WARM):
            display.step(row(99.0 if step < 3 else 3.0, step=step))
        assert capsys.readouterr().out == ""
        for step in range(WARM, 60):
            display.step(row(3.0, step=step))
    out = capsys.readouterr().out
    assert out.count("off the plan") == 1
    assert "3 s, not 2" in out


def test_a_line_of_a_step_shows_both(capsys) -> None:
    with Display(0, 9, every=1) as display:
        display.step(row(2.5))
    assert "2.5 s, planned 2 · 5.00 GB, planned 5.00" in capsys.readouterr().out


def test_a_cpu_that_nobody_measured_is_not_compared(tmp_path) -> None:
    path = planned(tmp_path) / "plan.json"
    path.write_text(path.read_text().replace('"my"', '"cpu"'))
    assert read_plan(tmp_path, CPU) is None


def test_what_is_far_off_is_said_in_times() -> None:
    assert "a step takes 30 times more than planned" in deviation(row(60.0))


@pytest.mark.parametrize(
    "change",
    [
        {"step_seconds": None},
        {"step_seconds": 0},
        {"step_seconds": float("nan")},
        {"memory": {}},
        {"memory": []},
        {"memory": {"per_gpu": {"total": "x", "overhead": 0}}},
    ],
    ids=str,
)
def test_a_damaged_plan_is_said_to_be_and_is_none(tmp_path, capsys, change):
    path = planned(tmp_path) / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_plan(tmp_path, CPU) is None
    for text in ("", "[]", "{}", "{", "[" * 100_000, "\xff"):
        path.write_text(text, encoding="latin-1")
        assert read_plan(tmp_path, CPU) is None
    assert capsys.readouterr().out.count(f"{path} is damaged") == 7
