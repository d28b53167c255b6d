"""How right `llamac plan` is about published runs: `python benchmarks/plan_accuracy.py DIR`.

DIR holds `throughput.csv` (its README says where the rows are from). For each source: the mean
absolute error of tokens/s, its bias, the rank correlation of layouts of one model on one kind of
GPU, the error of peak memory, and how often fitting or not was right. Beside them those of the
dullest predictor, for which every run of a source has that source's median MFU.

The constants were fitted to all of these rows (`benchmarks/plan_fit.py`). The honest figures are
those of each publication under constants that never saw it, which plan_fit.py writes:
`publications`.
From them come the ranges of `llamac plan` (`llamac/plan/residuals.json`), and `coverage`: how often
the range that the other publications give holds what one has measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from llamac.plan.prediction import Prediction
from llamac.plan.published.rows import RowError, mentions, number, text
from llamac.plan.published.score import comparable_peak, predict_row
from llamac.plan.uncertainty import CALIBRATED_CPU, TABLE, regime

RESULT = Path(__file__).parent / "results" / "plan_accuracy.json"
LEFT_OUT = RESULT.with_name("plan_left_out.csv")
MEASURED_CPU = RESULT.with_name("plan_measured_cpu.json")
UNITS = {"gib": 2**30, "mib": 2**20, "gb": 1e9, "mb": 1e6}

Row = Mapping[str, str]


@dataclass(frozen=True)
class Scored:
    """A row and what is said of it. dull: tokens/s of the constant-MFU predictor."""

    row: Row
    prediction: Prediction
    measured: float | None
    dull: float = 0.0

    @property
    def predicted(self) -> float:
        return self.prediction.tokens_per_second_per_gpu

    @property
    def memory_error(self) -> float | None:
        """Of peak memory, relative; None where the row says nothing of it."""
        measured = number(self.row, "peak_mem")
        if measured is None:
            return None
        unit = next(
            (n for word, n in UNITS.items() if mentions(text(self.row, "mem_kind"), word)), 1
        )
        return comparable_peak(self.row, self.prediction) / (measured * unit) - 1

    @property
    def held_residual(self) -> float | None:
        """Measured over predicted peak memory, minus 1."""
        error = self.memory_error
        return None if error is None else 1 / (1 + error) - 1

    @property
    def fit_is_right(self) -> bool:
        return self.prediction.fits == ("oom" not in text(self.row, "status"))


def scored(rows: Iterable[Row]) -> list[Scored]:
    """Rows that cannot be expressed are told on stderr."""
    found = []
    for line, row in enumerate(rows, start=1):
        try:
            found.append(Scored(row, predict_row(row), number(row, "tok_s_gpu")))
        except RowError as error:
            print(f"row {line}: {error}", file=sys.stderr)
    return found


def with_dull(of_source: Sequence[Scored]) -> list[Scored]:
    """Each with the tokens/s that its source's median MFU would give it."""

    def per_flop(one: Scored) -> float:
        prediction = one.prediction
        return prediction.peak / (prediction.flops_per_token + prediction.attention_per_token)

    known = [one.measured / per_flop(one) for one in of_source if one.measured]
    middle = median(known) if known else 0.0
    return [
        Scored(one.row, one.prediction, one.measured, middle * per_flop(one)) for one in of_source
    ]


def ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of their ranks."""
    places: dict[float, list[int]] = defaultdict(list)
    for place, value in enumerate(sorted(values), start=1):
        places[value].append(place)
    return [mean(places[value]) for value in values]


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation (Spearman 1904); 0 where either does not vary."""
    a, b = ranks(one), ranks(other)
    middle = mean(a)
    spread = math.sqrt(sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b))
    both = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    return both / spread if spread else 0.0


def rank_correlation(rows: Sequence[Scored], of: Callable[[Scored], float]) -> float | None:
    """Mean over models on a kind of GPU of 4 layouts or more, by how many they have."""
    groups: dict[tuple[str, ...], list[Scored]] = defaultdict(list)
    for one in rows:
        groups[tuple(one.row[key] for key in ("source", "model", "gpu"))].append(one)
    large = [group for group in groups.values() if len(group) >= 4]
    if not large:
        return None
    found = (len(g) * spearman([of(x) for x in g], [x.measured or 0.0 for x in g]) for g in large)
    return sum(found) / sum(map(len, large))


def summary(rows: Sequence[Scored]) -> dict[str, Any]:
    """Errors as shares; None where there is nothing to compare."""
    timed = [one for one in rows if one.measured]
    memory = [abs(one.memory_error) for one in rows if one.memory_error is not None]
    found: dict[str, Any] = {"n": len(rows), "rows_with_memory": len(memory)}
    for name, of in (("plan", lambda x: x.predicted), ("constant_mfu", lambda x: x.dull)):
        errors = [of(one) / one.measured - 1 for one in timed if one.measured]
        found[name] = {
            "mape": mean(map(abs, errors)) if errors else None,
            "bias": mean(errors) if errors else None,
            "rank_correlation": rank_correlation(timed, of),
        }
    found["memory_mape"] = mean(memory) if memory else None
    found["fits_right"] = mean(one.fit_is_right for one in rows) if rows else None
    return found


def accuracy(rows: Iterable[Scored]) -> dict[str, Any]:
    """Summaries of each source and of all rows, under the shipped constants."""
    by_source: dict[str, list[Scored]] = defaultdict(list)
    for one in rows:
        by_source[one.row["source"]].append(one)
    complete = {source: with_dull(some) for source, some in by_source.items()}
    everything = [one for some in complete.values() for one in some]
    return {
        "all": summary(everything),
        "sources": {source: summary(some) for source, some in complete.items()},
    }


def line(name: str, part: Mapping[str, Any]) -> str:
    """A row of the printed table; the constant-MFU predictor's figures in brackets."""
    plan, dull = part["plan"], part["constant_mfu"]

    def share(value: float | None) -> str:
        return f"{100 * value:6.1f}" if value is not None else "     –"

    def correlation(value: float | None) -> str:
        return f"{value:5.2f}" if value is not None else "    –"

    return (
        f"{name[-52:]:52} {part['n']:5} {share(plan['mape'])} ({share(dull['mape'])})"
        f" {share(plan['bias'])}  {correlation(plan['rank_correlation'])}"
        f" ({correlation(dull['rank_correlation'])}) {share(part['memory_mape'])}"
        f" {share(part['fits_right'])}"
    )


@dataclass(frozen=True)
class Residual:
    """Measured / predicted tokens/s of a row under constants fitted without its publication."""

    publication: str
    source: str
    regime: str
    ratio: float


def residuals_of(rows: Sequence[Scored]) -> list[Residual]:
    """Read what plan_fit.py wrote of rows left out. rows: all of the table, in its order."""
    found = []
    with LEFT_OUT.open(encoding="utf-8", newline="") as file:
        for one in csv.DictReader(file):
            scored_row = rows[int(one["line"])]
            assert scored_row.row["source"] == one["source"], "run plan_fit.py again"
            place, ratio = regime(scored_row.prediction), math.exp(-float(one["log_error"]))
            found.append(Residual(one["publication"], one["source"], place, ratio))
    return found


def ranges(some: Sequence[Residual]) -> dict[str, tuple[float, float, float]]:
    """10, 50 and 90 % quantiles of measured / predicted by regime, sources counted alike.

    A regime's quantiles are widened to at least those of all rows where it has few rows, or rows of
    fewer than three publications.
    """
    every = quantiles_of([(one.source, one.ratio) for one in some])
    by_regime: dict[str, list[Residual]] = defaultdict(list)
    for one in some:
        by_regime[one.regime].append(one)
    found = {"any": every}
    for name, own in sorted(by_regime.items()):
        low, middle, high = quantiles_of([(one.source, one.ratio) for one in own])
        if len({one.publication for one in own}) < 3 or len(own) < 10:
            low, high = min(low, every[0]), max(high, every[2])
        found[name] = (low, middle, high)
    return found


def coverage(some: Sequence[Residual]) -> dict[str, float]:
    """Share of a publication's rows within the ranges that the other publications give.

    `all`: the mean over sources.
    """
    inside: dict[str, list[bool]] = defaultdict(list)
    sources: dict[str, list[bool]] = defaultdict(list)
    for publication in sorted({one.publication for one in some}):
        table = ranges([one for one in some if one.publication != publication])
        for one in some:
            if one.publication == publication:
                low, _, high = table.get(one.regime, table["any"])
                inside[publication].append(low <= one.ratio <= high)
                sources[one.source].append(low <= one.ratio <= high)
    return {
        **{name: mean(own) for name, own in inside.items()},
        "all": mean(map(mean, sources.values())),
    }


def table_of_ranges(rows: Sequence[Scored], left_out: Sequence[Residual]) -> dict[str, Any]:
    """`llamac/plan/residuals.json`. Memory's few rows are widened by half of their spread."""
    ratios = [("", 1 + error) for one in rows if (error := one.held_residual) is not None]
    low, middle, high = quantiles_of(ratios)
    memory = (low - (middle - low) / 2, middle, high + (high - middle) / 2)
    speed = {**ranges(left_out), CALIBRATED_CPU: quantiles_of([("", one) for one in cpu_ratios()])}
    counts = {"speed": len(left_out), "memory": len(ratios)}
    return {"speed": speed, "memory": memory, "rows": counts}


def cpu_ratios() -> list[float]:
    """Return measured / predicted speed of each setting of plan_measured.py on a CPU."""
    settings = json.loads(MEASURED_CPU.read_text(encoding="utf-8"))["settings"]
    return [one["predicted_step_seconds"] / one["step_seconds"]["median"] for one in settings]


def quantiles_of(ratios: Sequence[tuple[str, float]]) -> tuple[float, float, float]:
    """10, 50 and 90 % quantiles of (source, ratio), sources counted alike."""
    counts: dict[str, int] = defaultdict(int)
    for source, _ in ratios:
        counts[source] += 1
    ordered = sorted((ratio, 1 / counts[source]) for source, ratio in ratios)
    whole, found = sum(weight for _, weight in ordered), []
    for share in (0.1, 0.5, 0.9):
        passed = 0.0
        for ratio, weight in ordered:
            passed += weight
            if passed >= share * whole - 1e-9:
                found.append(round(ratio, 4))
                break
    return found[0], found[1], found[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=RESULT)
    given = parser.parse_args()
    with (given.directory / "throughput.csv").open(encoding="utf-8", newline="") as file:
        every = scored(csv.DictReader(file))
    found = accuracy(every)
    left_out = residuals_of(every)
    head = "% of tokens/s, constant MFU in brackets"
    print(f"{head:52}     n   MAPE           bias    rank         memory  fits")
    for source, one in found["sources"].items():
        print(line(source, one))
    print(line("all", found["all"]))
    found["coverage"] = coverage(left_out)
    print("within the ranges of the other publications:", rounded(found["coverage"]))
    given.output.parent.mkdir(exist_ok=True)
    before = json.loads(RESULT.read_text(encoding="utf-8"))
    found["publications"] = before.get("publications", {})  # what plan_fit.py wrote there
    given.output.write_text(json.dumps(rounded(found), indent=1) + "\n", encoding="utf-8")
    table = table_of_ranges(every, left_out)
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
