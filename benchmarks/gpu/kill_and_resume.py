"""A real training, killed in the middle and resumed: does its curve go on bit for bit?

    python benchmarks/gpu/kill_and_resume.py [--spec 125m] [--seconds 180] --out FILE.json

The spec's trainer is built and started as a user starts it. When it is some steps past a checkpoint
it is killed (SIGKILL) and started again: it resumes from the checkpoint and takes those steps a
second time. Loss and gradient norm of each must have the same bits. Then it trains on until the
time is over and is told to stop (SIGTERM), which saves. Speed is the median of the steps after the
first of each start; what a start costs is stated apart.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from gpu import results, state

from llamac.emit.build import files_of, write_directory
from llamac.passes.pass_list import stages
from llamac.spec import Spec, load_spec

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT_EVERY = 20
BEYOND = 6  # steps past a checkpoint at which the run is killed


def spec_of(name: str, rehearse: bool) -> Spec:
    """The spec, saving every 20 steps; rehearsed, a toy that saves every 5."""
    if rehearse:
        return load_spec(Path(__file__).parent / "toy.toml", ["checkpoint.every=5"])
    settings = [f"checkpoint.every={CHECKPOINT_EVERY}", "eval.every=100"]
    return load_spec(ROOT / "specs" / f"{name}.toml", settings)


class Run:
    """A trainer's process and what it has written."""

    def __init__(self, directory: Path, run: Path) -> None:
        self.directory, self.run, self.began = directory, run, time.monotonic()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, log: Path) -> None:
        command = [sys.executable, "train.py", "--run", str(self.run)]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=self.directory, stdout=out, stderr=subprocess.STDOUT
            )

    def rows(self) -> list[dict[str, Any]]:
        path = self.run / "metrics.jsonl"
        lines = path.read_text().splitlines(True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def until(self, step: int, end: float) -> float | None:
        """Seconds until this step's row is there; None if the time or the process ended first."""
        began = time.monotonic()
        assert self.process is not None
        while not (rows := self.rows()) or rows[-1]["step"] < step:
            if time.monotonic() > end or self.process.poll() is not None:
                return None
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self, number: signal.Signals, seconds: float = 60) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def differing(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    """The steps taken twice, and those whose loss or gradient norm has other bits."""
    first = {row["step"]: row for row in before}
    twice = [row for row in after if row["step"] in first]
    wrong = [
        row["step"]
        for row in twice
        if any(row[key] != first[row["step"]][key] for key in ("loss", "grad_norm", "lr"))
    ]
    return {"steps_taken_twice": len(twice), "steps_that_differ": wrong}


def trained(
    spec: Spec, scratch: Path, seconds: float, log: Path, briefly: bool = False
) -> dict[str, Any]:
    """Return the outcome of a run of so many seconds. briefly: stop once the comparison is made."""
    directory, end = scratch / "built", time.monotonic() + seconds
    write_directory(directory, files_of(spec, stages(spec)))
    run = Run(directory, scratch / "run")
    run.start(log)
    try:
        first = run.until(1, end)
        found: dict[str, Any] = {"seconds_to_first_step": first}
        killed_at = 2 * spec.checkpoint.every + BEYOND
        if first is None or run.until(killed_at, end) is None:
            return found | {"failed": "no step to kill it at", "said": tail(log)}
        run.stop(signal.SIGKILL)
        before = run.rows()
        run.start(log)
        found["seconds_to_resume"] = run.until(before[-1]["step"] + 2, end)
        end = 0 if briefly else end
        while time.monotonic() < end - 8 and run.process and run.process.poll() is None:
            time.sleep(0.2)
        found["exit_code"] = run.stop(signal.SIGTERM)
        after = run.rows()
    finally:
        if run.process is not None and run.process.poll() is None:
            run.stop(signal.SIGKILL)
    resumed = [event["step"] for event in events(run.run) if event["event"] == "start"]
    later = [row for row in after if row["step"] > resumed[-1]]
    twice = [row for row in before if row["step"] > resumed[-1]]
    steady = later[2:] or later
    return found | {
        "killed_after_step": before[-1]["step"],
        "resumed_after_step": resumed[-1],
        **differing(twice, later),
        "steps": after[-1]["step"],
        "loss": {"first": after[0]["loss"], "last": after[-1]["loss"]},
        "tokens_per_second": statistics.median(r["tokens_per_second"] for r in steady),
        "mfu": statistics.median(row["mfu"] for row in steady),
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in after),
        "curve": [[row["step"], row["loss"], row["grad_norm"]] for row in after],
    }


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-15:]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spec", default="125m")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a toy")
    parser.add_argument("--out", type=Path, required=True, help="where the JSON goes")
    options = parser.parse_args()
    if options.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    result = {"how": __doc__, "machine": state.device(), "spec": options.spec}
    with tempfile.TemporaryDirectory() as scratch, state.Watch() as watch:
        text = Path(scratch)
        spec = spec_of(options.spec, options.rehearse)
        seconds = 360 if options.rehearse else options.seconds
        row = trained(spec, text, seconds, text / "log", options.rehearse)
        said = tail(text / "log") if (text / "log").is_file() else []
    same = not row.get("steps_that_differ") and row.get("steps_taken_twice", 0) > 0
    result |= {"rows": {"run": row}, "watts_and_clocks": watch.row, "said": said}
    results.write(options.out, result | {"same_curve": same, "complete": "failed" not in row})
    print({key: value for key, value in row.items() if key != "curve"})
    return 0 if same and row.get("exit_code") == 0 else 3


if __name__ == "__main__":
    sys.exit(main())
