"""Runs as they lie on disk: one that had a hard life, and one beside it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamac.spec import load_spec

Row = dict[str, Any]
STEPS, BATCH = 300, 2048
SKIPPED = (150, 151)
START = {
    "event": "start",
    "step": 0,
    "time": 1.79e9,
    "id": "abc",
    "checkpoint": None,
    "layout": {"dp_shard": 4},
    "device": "cuda",
    "peak_flops": 4 * 312e12,
    "flops_per_token": 35_192_832,
    "host": "node7",
    "hardware": {
        "cpu": "EPYC",
        "cores": 96,
        "gpu": "A100",
        "gpu_memory_bytes": 85e9,
        "gpus_here": 4,
    },
    "versions": {"python": "3.12.3", "torch": "2.11.0"},
    "git": {"commit": "0123abcd", "changed": True},
    "compute": "torch.compile",
}
PLAN = {
    "device": "a100-80gb",
    "kind": "gpu",
    "flops": {"per_token": 35_192_832, "attention_per_token": 4_718_592},
    "memory": {"per_gpu": {"total": 70e9, "overhead": 2e9}},
    "step_seconds": 0.5,
}


def metrics_row(step: int, seed: int = 1, **more: Any) -> Row:
    """A row as a trainer writes it; the same arguments give the same one."""
    dice = random.Random(step * 1000 + seed)
    seconds = dice.gauss(0.52, 0.01)
    return {
        "step": step,
        "tokens": step * BATCH,
        "loss": 2 + 0.05 * seed + 6 * math.exp(-step / 20) + dice.gauss(0, 0.03),
        "lr": 1e-3 * min(1, step / 30),
        "grad_norm": abs(dice.gauss(0.4, 0.1)),
        "tokens_per_second": BATCH / seconds,
        "mfu": 0.4 * 0.52 / seconds,
        "step_seconds": seconds,
        "peak_memory_bytes": 61_234_567_890 + step,
        **more,
    }


def metrics_rows(steps: int = STEPS, seed: int = 1) -> list[Row]:
    """Rows with an evaluation every 50 steps, and two skipped steps."""
    rows = [metrics_row(step, seed) for step in range(1, steps + 1)]
    for row in rows:
        if row["step"] % 50 == 0:
            row["validation_loss"] = 2.1 + 1 / row["step"]
    for number, step in enumerate(SKIPPED, 1):
        if step <= steps:
            rows[step - 1] |= {"loss": None, "grad_norm": None, "skipped_steps": number}
    return rows


def lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def events() -> list[Row]:
    """A start, a kill and a resume in another layout, an error and a resume, and the end."""
    found: list[Row] = [START]
    for step in range(50, STEPS + 1, 50):
        found.append({"event": "save", "step": step, "time": START["time"] + step})
        sample = {"event": "sample", "step": step, "text": f"once <b>{step}</b>\nupon"}
        found.append(sample)
        if step == 100:
            again = {"step": step, "dropped_rows": 7, "layout": {"tp": 2, "dp_shard": 2}}
            found += [sample | {"step": 104, "text": "taken back"}, START | again]
        if step == 200:
            found.append({"event": "stop", "step": step, "error": "no space left on device"})
            found.append(START | {"step": step, "layout": {"tp": 2, "dp_shard": 2}})
    found.append({"event": "stop", "step": STEPS, "time": START["time"] + STEPS})
    return found


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function that writes a run: its name, rows, events, changes of the spec."""

    def make(
        name: str,
        rows: list[Row] | str | None = None,
        happened: list[Row] | str | None = None,
        changes: tuple[str, ...] = (),
    ) -> Path:
        run = tmp_path / name
        run.mkdir()
        spec = load_spec("tiny", [f"schedule.steps={STEPS}", *changes])
        (run / "spec.toml").write_text(spec.to_toml())
        (run / "plan.json").write_text(json.dumps(PLAN))
        (run / "MANIFEST.json").write_text('{"llamac": "0.1.0"}')
        rows = metrics_rows() if rows is None else rows
        (run / "metrics.jsonl").write_text(rows if isinstance(rows, str) else lines(rows))
        happened = events() if happened is None else happened
        (run / "events.jsonl").write_text(
            happened if isinstance(happened, str) else lines(happened)
        )
        return run

    return make
