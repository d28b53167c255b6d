"""Predictions for a table of published runs: `python -m llamac.plan.score FILE.csv [-o OUT.csv]`.

The table's columns are those that `llamac.plan.published.row_setting` reads; others are preserved.
Three are added: `predicted_tok_s_gpu`, `predicted_peak_bytes` and `predicted_fits` (1 or 0). They
are empty for a row that cannot be expressed; the reason is printed to stderr, as are values that
are not understood, with their numbers of rows.
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
from llamac.plan.published.rows import Row, RowError, mentions, text
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
"""Columns of a table that are read or have measurements; any other is reported as ignored."""


def predict_row(row: Row) -> Prediction:
    """Predict the run of a row. Raises RowError if it is invalid or a spec cannot express it."""
    return predict_run(published_run(row))


def predict_run(run: PublishedRun) -> Prediction:
    """Predict a run that was read from a row. Raises RowError if its layout is impossible."""
    try:
        return predict(run.setting, run.program)
    except (SpecError, ZeroDivisionError, OverflowError) as error:
        raise RowError(f"no such layout: {error}") from error


def comparable_peak(row: Row, prediction: Prediction) -> float:
    """Return the predicted peak memory in bytes, by the definition of the row's measurement.

    Bytes reserved by torch exclude the CUDA context; bytes allocated also exclude fragmentation.
    """
    memory, kind = prediction.memory, text(row, "mem_kind")
    if mentions(kind, "alloc"):
        return memory.total - memory.overhead
    if mentions(kind, "reserv", "cache"):
        return memory.total - min(CONTEXT, memory.overhead)
    return memory.total


def predicted_columns(row: Row, prediction: Prediction) -> dict[str, str]:
    """Return the values of the columns `ADDED` for a row, by column.

    They are tokens/s per GPU, peak bytes by the row's definition, and 1 or 0 for whether it fits.
    """
    values = (
        f"{prediction.tokens_per_second_per_gpu:.6g}",
        f"{comparable_peak(row, prediction):.0f}",
        str(int(prediction.fits)),
    )
    return dict(zip(ADDED, values, strict=True))


@dataclass
class Scores:
    """A table with added predictions.

    Attributes:
        table: The table as CSV, with the columns `ADDED`.
        refused: Messages on rows without a prediction.
        unread: Number of rows by (column, value that is not understood, assumption made instead).
        unread_columns: Columns that are not read.
        done: Number of rows with a prediction.
    """

    table: str = ""
    refused: list[str] = field(default_factory=list)
    unread: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    unread_columns: list[str] = field(default_factory=list)
    done: int = 0

    def remarks(self) -> Iterator[str]:
        """Yield lines for stderr: refused rows, values that are not understood, ignored columns."""
        yield from self.refused
        for (column, value, instead), count in self.unread.most_common():
            rows = "1 row" if count == 1 else f"{count:,} rows"
            yield f"column {column}: {value!r} is not understood; assumed {instead} ({rows})"
        if self.unread_columns:
            yield f"ignored columns: {', '.join(self.unread_columns)}"


def score(table: str) -> Scores:
    """Predict every row of a table, given as the text of a CSV file.

    Rows that cannot be expressed are kept, with empty predictions. Raises RowError if the table has
    no header.
    """
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
            columns: Mapping[str, str] = predicted_columns(row, predict_run(run))
            scores.unread.update(run.unread)
            scores.done += 1
        except RowError as error:
            columns = dict.fromkeys(ADDED, "")
            scores.refused.append(f"row {number} ({row.get('model') or 'no model'}): {error}")
        writer.writerow({**row, **columns})
    scores.table = out.getvalue()
    return scores


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    It is 2 if a file cannot be read or written, or all rows are refused, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m llamac.plan.score", description=__doc__)
    parser.add_argument("file", metavar="FILE.csv", type=Path)
    parser.add_argument("-o", "--output", metavar="OUT.csv", type=Path, help="default: stdout")
    options = parser.parse_args(arguments)
    try:
        with options.file.open(encoding="utf-8-sig", newline="") as file:
            scores = score(file.read())
    except (OSError, UnicodeDecodeError, RowError, csv.Error) as error:
        print(f"error: {options.file}: {error}", file=sys.stderr)
        return 2
    for remark in scores.remarks():
        print(remark, file=sys.stderr)
    if options.output is None:
        sys.stdout.write(scores.table)
    else:
        try:
            options.output.write_text(scores.table, encoding="utf-8", newline="")
        except OSError as error:
            print(f"error: {options.output}: {error}", file=sys.stderr)
            return 2
    return 2 if scores.refused and not scores.done else 0


if __name__ == "__main__":
    sys.exit(main())
