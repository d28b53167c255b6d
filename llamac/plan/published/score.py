"""Predictions for a table of published runs: `python -m llamac.plan.score FILE.csv [-o OUT.csv]`.

The table's columns are those that `llamac.plan.published.row_setting` reads; others are kept.
Three are added: `predicted_tok_s_gpu`, `predicted_peak_bytes`, `predicted_fits` (1 or 0). A row
that cannot be expressed gets none of them, and its reason goes to stderr, as do values that are not
understood, each with the number of its rows.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamac.passes.analysis.peak_memory import CONTEXT
from llamac.plan.predict import predict
from llamac.plan.prediction import Prediction
from llamac.plan.published.row_setting import PublishedRun, published_run
from llamac.plan.published.rows import Row, RowError, says, text
from llamac.spec import SpecError

ADDED = ("predicted_tok_s_gpu", "predicted_peak_bytes", "predicted_fits")


# fmt: off
COLUMNS = frozenset((
    "source", "framework", "model", "family", "n_params", "n_layers",
    "d_model", "n_heads", "n_kv_heads", "d_ffn", "mlp", "vocab",
    "tied_emb", "gpu", "n_gpus", "gpus_per_node", "internode_bw_gbps_per_gpu", "dtype",
    "seq_len", "mbs", "grad_accum", "gbs_seqs", "gbs_tokens", "tp",
    "pp", "vpp", "cp", "dp", "sp", "dp_sharding",
    "act_ckpt", "attn_kernel", "status", "tok_s_gpu", "step_time_s", "mfu_pct",
    "hfu_pct", "tflops_gpu", "mfu_convention", "peak_mem", "mem_kind", "notes",
))
# fmt: on
"""Columns that are read, or that hold what was measured."""


def predict_row(row: Row) -> Prediction:
    """Predict a row's run. Raises RowError."""
    return predict_run(published_run(row))


def predict_run(run: PublishedRun) -> Prediction:
    """Predict a run that was read from a row. Raises RowError."""
    try:
        return predict(run.setting, run.program)
    except (SpecError, ZeroDivisionError, OverflowError) as error:
        raise RowError(f"no such layout: {error}") from error


def comparable_peak(row: Row, prediction: Prediction) -> float:
    """Return the predicted peak memory, counted as the row's was measured.

    Bytes reserved by torch exclude the CUDA context; bytes allocated exclude the allocator's losses
    as well.
    """
    memory, kind = prediction.memory, text(row, "mem_kind")
    if says(kind, "alloc"):
        return memory.total - memory.overhead
    if says(kind, "reserv", "cache"):
        return memory.total - min(CONTEXT, memory.overhead)
    return memory.total


def predicted_columns(row: Row, found: Prediction) -> dict[str, str]:
    """Return the columns added to a row: predicted speed, peak memory and whether it fits."""
    values = (
        f"{found.tokens_per_second_per_gpu:.6g}",
        f"{comparable_peak(row, found):.0f}",
        str(int(found.fits)),
    )
    return dict(zip(ADDED, values, strict=True))


@dataclass
class Scores:
    """A table with predictions.

    Attributes:
        refused: Why rows have none.
        unread: How many rows have a value that is not understood, by (column, value, what is
            assumed instead).
        done: Rows that have a prediction.
    """

    table: str = ""
    refused: list[str] = field(default_factory=list)
    unread: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    unread_columns: list[str] = field(default_factory=list)
    done: int = 0

    def remarks(self) -> Iterator[str]:
        """Return lines for stderr: rows refused, then values not understood, with their counts."""
        yield from self.refused
        for (column, value, instead), count in self.unread.most_common():
            rows = "1 row" if count == 1 else f"{count:,} rows"
            yield f"column {column}: {value!r} is not understood; assumed {instead} ({rows})"
        if self.unread_columns:
            yield f"ignored columns: {', '.join(self.unread_columns)}"


def score(table: str) -> Scores:
    """Predict every row of a table. Raises RowError where it is no table."""
    rows = csv.DictReader(io.StringIO(table, newline=""))
    if not rows.fieldnames:
        raise RowError("no header: the first line must name the columns")
    fields = [name for name in rows.fieldnames if name not in ADDED]
    out, scores = io.StringIO(newline=""), Scores()
    scores.unread_columns = [name for name in fields if name and name not in COLUMNS]
    writer = csv.DictWriter(out, [*fields, *ADDED], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for number, row in enumerate(rows, start=1):
        try:
            run = published_run(row)
            found: Mapping[str, str] = predicted_columns(row, predict_run(run))
            scores.unread.update(run.unread)
            scores.done += 1
        except RowError as error:
            found = dict.fromkeys(ADDED, "")
            scores.refused.append(f"row {number} ({row.get('model') or 'no model'}): {error}")
        writer.writerow({**row, **found})
    scores.table = out.getvalue()
    return scores


def main(arguments: Sequence[str] | None = None) -> int:
    """Score a file of rows. Returns 0, or 2 if it is unreadable or no row could be expressed."""
    parser = argparse.ArgumentParser(prog="python -m llamac.plan.score", description=__doc__)
    parser.add_argument("file", metavar="FILE.csv", type=Path)
    parser.add_argument("-o", "--output", metavar="OUT.csv", type=Path, help="default: stdout")
    given = parser.parse_args(arguments)
    try:
        with given.file.open(encoding="utf-8-sig", newline="") as file:
            scores = score(file.read())
    except (OSError, UnicodeDecodeError, RowError, csv.Error) as error:
        print(f"error: {given.file}: {error}", file=sys.stderr)
        return 2
    for remark in scores.remarks():
        print(remark, file=sys.stderr)
    if given.output is None:
        sys.stdout.write(scores.table)
    else:
        try:
            given.output.write_text(scores.table, encoding="utf-8", newline="")
        except OSError as error:
            print(f"error: {given.output}: {error}", file=sys.stderr)
            return 2
    return 2 if scores.refused and not scores.done else 0


if __name__ == "__main__":
    sys.exit(main())
