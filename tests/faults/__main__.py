"""Try faults, as many as wanted, and report how many were held, per class.

    python -m tests.faults [--trials N] [--class NAME]… [-o benchmarks/results/faults.json]

Exits with 1 if any was not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.classes import CLASSES, Tried


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="of each class")
    parser.add_argument("--class", dest="classes", action="append", choices=CLASSES)
    parser.add_argument("-o", dest="output", type=Path)
    args = parser.parse_args()
    broken, report = 0, {}
    if args.output and args.output.exists():
        report = json.loads(args.output.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="llamac-faults-") as root:
        tried = Tried(Path(root))
        for name in args.classes or CLASSES:
            began, outcomes = time.monotonic(), Counter[str]()
            for outcome in CLASSES[name](tried, args.trials):
                outcomes[outcome] += 1
                if outcome not in ("same", "error"):
                    print(f"NOT HELD, {name}: {outcome}", flush=True)
            held, count = outcomes["same"] + outcomes["error"], outcomes.total()
            report[name] = {
                "tried": count,
                "held": held,
                "same weights": outcomes["same"],
                "clear error": outcomes["error"],
            }
            broken += count - held
            print(f"{name}: {held} of {count} held, {time.monotonic() - began:.0f} s", flush=True)
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return min(broken, 1)


if __name__ == "__main__":
    raise SystemExit(main())
