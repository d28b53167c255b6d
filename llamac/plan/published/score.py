"""Predictions for a table of published runs: `python -m llamac.plan.score FILE.csv [-o OUT.csv]`.

The table's columns are those that `llamac.plan.published.run` reads; others are kept.
Three are added: `predicted_tok_s_gpu`, `predicted_peak_bytes`, `predicted_fits` (1 or 0). A row
that cannot be expressed gets none of them, and its reason goes to stderr.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from llamac.passes.footprint import CONTEXT
from llamac.plan.predict import predict
from llamac.plan.prediction import Prediction
from llamac.plan.published.rows import Row, RowError, says, text
from llamac.plan.published.run import published_run
from llamac.spec import SpecError

ADDED = ("predicted_tok_s_gpu", "predicted_peak_bytes", "predicted_fits")


def predict_row(row: Row) -> Prediction:
    """Raises RowError."""
    run = published_run(row)
    try:
        return predict(run.setting, run.program)
    except (SpecError, ZeroDivisionError, OverflowError) as error:
        raise RowError(f"no such layout: {error}") from error


def peak_bytes(row: Row, prediction: Prediction) -> float:
    """As the row's memory was measured: what torch reserved does not hold the CUDA context, and
    what it allocated not what its allocator loses either."""
    memory, kind = prediction.memory, text(row, "mem_kind")
    if says(kind, "alloc"):
        return memory.total - memory.overhead
    if says(kind, "reserv", "cache"):
        return memory.total - min(CONTEXT, memory.overhead)
    return memory.total


def predicted(row: Row) -> dict[str, str]:
    """The columns that are added. Raises RowError."""
    found = predict_row(row)
    values = (
        f"{found.tokens_per_second_per_gpu:.6g}",
        f"{peak_bytes(row, found):.0f}",
        str(int(found.fits)),
    )
    return dict(zip(ADDED, values, strict=True))


def score(table: str) -> tuple[str, list[str], int]:
    """(the table with predictions, why rows have none, how many rows have some). Raises RowError
    where it is no table."""
    rows = csv.DictReader(io.StringIO(table, newline=""))
    if not rows.fieldnames:
        raise RowError("no header: the first line must name the columns")
    fields = [name for name in rows.fieldnames if name not in ADDED]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, [*fields, *ADDED], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    refused, done = [], 0
    for number, row in enumerate(rows, start=1):
        try:
            found: Mapping[str, str] = predicted(row)
            done += 1
        except RowError as error:
            found = dict.fromkeys(ADDED, "")
            refused.append(f"row {number} ({row.get('model') or 'no model'}): {error}")
        writer.writerow({**row, **found})
    return out.getvalue(), refused, done


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 2 where the file cannot be read or no row could be expressed."""
    parser = argparse.ArgumentParser(prog="python -m llamac.plan.score", description=__doc__)
    parser.add_argument("file", metavar="FILE.csv", type=Path)
    parser.add_argument("-o", "--output", metavar="OUT.csv", type=Path, help="default: stdout")
    given = parser.parse_args(arguments)
    try:
        with given.file.open(encoding="utf-8-sig", newline="") as file:
            table, refused, done = score(file.read())
    except (OSError, UnicodeDecodeError, RowError, csv.Error) as error:
        print(f"error: {given.file}: {error}", file=sys.stderr)
        return 2
    for reason in refused:
        print(reason, file=sys.stderr)
    if given.output is None:
        sys.stdout.write(table)
    else:
        try:
            given.output.write_text(table, encoding="utf-8", newline="")
        except OSError as error:
            print(f"error: {given.output}: {error}", file=sys.stderr)
            return 2
    return 2 if refused and not done else 0


if __name__ == "__main__":
    sys.exit(main())
