"""Cost of the checks of files at the start of training.

    llamac train llama-mix-small -o RUN --steps 3
    python benchmarks/startup.py RUN [--rounds 5] [-o benchmarks/results/startup.json]

RUN: an emitted directory with prepared data and a checkpoint. A start is a process of its own, from
its beginning until the first step could begin: imports, data, model, checkpoint. The functions that
hash and compare are timed within it, so that a share is of one and the same start, whatever else
the machine does; medians over rounds, with the lowest and the highest. Seconds are CPU seconds of
the whole process, in which several threads hash; `wall` is the clock's.

    first     nothing is known of the data: all of it is read and hashed
    again     the data was found whole before, and is looked at by size and time alone
    resumed   as again, from a checkpoint, whose files are read and hashed
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTS = ("first", "again", "resumed")


def start(run: Path, where: str, resume: str) -> None:
    """One start, in this process; prints its seconds, and those within checks."""
    began, spent = time.monotonic(), [0.0, 0.0]

    def timed(check: Callable[..., Any]) -> Callable[..., Any]:
        def within(*args: Any, **more: Any) -> Any:
            cpu, wall = time.process_time(), time.monotonic()
            try:
                return check(*args, **more)
            finally:
                spent[0] += time.process_time() - cpu
                spent[1] += time.monotonic() - wall

        return within

    sys.path.insert(0, str(run))
    sys.argv = ["train.py", "--run", where, "--resume", resume]
    from runtime import emitted  # pyright: ignore[reportMissingImports]

    emitted.changes = timed(emitted.changes)
    import train  # pyright: ignore[reportMissingImports]
    from runtime.data import prepared  # pyright: ignore[reportMissingImports]

    prepared.check_once = timed(prepared.check_once)
    train.checkpoint.damage = timed(train.checkpoint.damage)
    train.ShardedOptimizer.check_replicas = timed(train.ShardedOptimizer.check_replicas)

    def begin(*args: Any) -> None:
        seconds = {"cpu": time.process_time(), "wall": time.monotonic() - began}
        seconds |= {"checks_cpu": spent[0], "checks_wall": spent[1]}
        print(json.dumps(seconds), flush=True)
        os._exit(0)

    train.accumulate = begin
    train.main()


def one_start(run: Path, kind: str) -> dict[str, float]:
    """The seconds of one start in a process of its own."""
    if kind == "first":
        (prepared_data(run) / ".verified.json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as empty:
        resume = str(newest(run)) if kind == "resumed" else "never"
        call = [sys.executable, __file__, str(run), "--start", empty, resume]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


def measured(run: Path, kind: str, rounds: int) -> dict[str, Any]:
    one_start(run, "again")  # the page cache, and the note of what is whole
    found = [one_start(run, kind) for _ in range(rounds)]
    result: dict[str, Any] = {"cpu_seconds": statistics.median(one["cpu"] for one in found)}
    for clock in ("cpu", "wall"):
        shares = [one[f"checks_{clock}"] / one[clock] for one in found]
        result[f"{clock}_share"] = [statistics.median(shares), min(shares), max(shares)]
    return result


def prepared_data(run: Path) -> Path:
    spec = tomllib.loads((run / "spec.toml").read_text(encoding="utf-8"))
    return Path(spec["data"].get("directory") or run / "data")


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", dest="output", type=Path)
    parser.add_argument("--start", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    run = args.run.resolve()
    if args.start:
        start(run, *args.start)
        return
    tokens = prepared_data(run).glob("*/*.bin")
    saved = (path for path in newest(run).rglob("*") if path.is_file())
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "token_bytes": sum(path.stat().st_size for path in tokens),
        "checkpoint_bytes": sum(path.stat().st_size for path in saved),
    }
    for kind in STARTS:
        result[kind] = measured(run, kind, args.rounds)
        print(kind, result[kind], flush=True)
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
