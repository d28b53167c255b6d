"""Fit the planner's constants to published runs: `python benchmarks/plan_fit.py DIR`.

Each constant has a plausible value from datasheets and kernels' own papers, and a spread (a
standard deviation of its logarithm). The fit is the most probable set of constants given those and
the rows: it minimises the sum over sources of ROWS × mean |log(predicted / measured)| / ERROR, plus
half the squared distance from the plausible values in spreads, by Gauss-Newton steps. So a constant
that few rows speak of stays where it is plausible.

It prints the constants fitted to all rows, which are then written by hand, rounded, into
llamac/plan/cost/framework.py, llamac/plan/device/ and llamac/plan/devices/. Then it fits once more
without each publication. The errors of each under plausible constants, those fitted to all, and
those that never saw it go into the results of plan_accuracy.py (`publications`); the last row by
row into `plan_left_out.csv` beside it, from which plan_accuracy.py takes the ranges of
`llamac plan`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

import numpy as np
from plan_accuracy import LEFT_OUT, RESULT, rounded

from llamac.ir.program import Program
from llamac.plan.cost import region_time
from llamac.plan.cost.framework import FRAMEWORKS
from llamac.plan.cost.step_model import StepModel
from llamac.plan.published.framework_rules import framework_of
from llamac.plan.published.row_setting import published_run
from llamac.plan.published.rows import number
from llamac.plan.setting import Setting

PLAUSIBLE = {
    # of the peak: cuBLAS on large shapes with real data; the rest relative to these
    "a100.matmul": (0.85, 0.025),
    "a100-40gb.matmul": (0.97, 0.06),  # of runs in older stacks
    "h100.matmul": (0.60, 0.05),
    "500w.matmul": (0.87, 0.05),  # (500 / 700 W) ** 0.4
    # FlashAttention's best on each: Dao 2023 (A100), Shah et al. 2024 (H100)
    "a100.attention": (0.55, 0.08),
    "h100.attention": (0.55, 0.08),
    "500w.attention": (0.87, 0.08),
    "backward": (0.88, 0.08),
    "older_flash": (0.53, 0.10),
    "first_flash": (0.60, 0.10),
    "narrow": (0.2, 0.4),
    # fp8, of bf16's efficiency
    "fp8": (1.0, 0.1),
    "rowwise": (0.65, 0.1),
    # a matmul's pipeline, a kernel's start, work beside a transfer
    "fill": (128.0, 0.3),
    "kernel": (3.0e-6, 0.2),
    "contention": (0.2, 0.5),
    "async": (0.5, 0.2),
    # frameworks
    "eager.traffic": (1.25, 0.1),
    "autocast": (1.7, 0.2),
    "eager.kernels": (4.0, 0.25),
    "eager.loss_bytes": (24.0, 0.25),
    "eager.host": (8e-6, 0.25),
    "megatron.traffic": (1.4, 0.2),
    "megatron.kernels": (4.0, 0.25),
    "megatron.loss_bytes": (20.0, 0.25),
    "megatron.core_kernels": (16.0, 0.25),
    "megatron.host": (20e-6, 0.25),
    "megatron.collective_host": (60e-6, 0.4),
    "compiled.traffic": (1.2, 0.15),
    "compiled.loss_bytes": (16.0, 0.25),
}
"""Plausible value and spread of each fitted constant."""

PUBLICATIONS = ("foundry", "torchtitan", "Korthikanti", "vTrain")
ROWS, ERROR = 10.0, 0.05
EVERY = 5  # of vTrain's rows, one: they differ in little but numbers of layers
LITTLE = 0.03  # step of a derivative

Constants = Mapping[str, float]
Array = Any


@dataclass(frozen=True)
class Case:
    """A row as a setting. profile: its key in FRAMEWORKS. speed: log of its tokens/s."""

    source: str
    line: int
    profile: str
    setting: Setting
    program: Program
    speed: float

    def error(self, constants: Constants) -> float:
        """log(predicted / measured)."""
        setting = changed(self, constants)
        seconds = StepModel(setting, self.program).seconds().total
        return math.log(setting.tokens / seconds / setting.spec.parallel.ranks) - self.speed

    def depends_on(self, key: str) -> bool:
        """Return whether a constant may change this case's prediction."""
        part = key.split(".")[0]
        name = self.setting.device.name
        if part in FRAMEWORKS:
            return part == self.profile
        if part in ("500w", "a100", "a100-40gb"):
            return part in name
        return part != "h100" or name.startswith("h")


def cases(directory: Path) -> list[Case]:
    found: list[Case] = []
    with (directory / "throughput.csv").open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file)):
            if "vTrain" in row["source"] and hashlib.sha256(b"%d" % line).digest()[0] % EVERY:
                continue
            if speed := number(row, "tok_s_gpu"):
                run = published_run(row)
                profile = framework_of(row, run.setting.device)
                found.append(
                    Case(row["source"], line, profile, run.setting, run.program, math.log(speed))
                )
    return found


def changed(case: Case, constants: Constants) -> Setting:
    """The case's setting under other constants."""
    device, profile = case.setting.device, case.setting.profile
    matmul, attention = (
        constants[f"{device.name[:1]}100.{key}"] for key in ("matmul", "attention")
    )
    if "500w" in device.name:
        matmul, attention = (
            matmul * constants["500w.matmul"],
            attention * constants["500w.attention"],
        )
    if device.name == "a100-40gb":
        matmul *= constants["a100-40gb.matmul"]
    efficiency = replace(
        device.efficiency,
        matmul=matmul,
        fp8=matmul * constants["fp8"],
        attention=attention,
        attention_backward=attention * constants["backward"],
        **{key: constants[key] for key in ("narrow", "fill", "kernel", "contention")},
    )
    share = constants["older_flash"] if device.has_async_matmuls else 1.0
    share *= constants["first_flash"] if profile.attention < device.flash2 else 1.0
    named = f"{case.profile}."
    own: dict[str, Any] = {
        k.removeprefix(named): v for k, v in constants.items() if k.startswith(named)
    }
    if profile.traffic > FRAMEWORKS["eager"].traffic and case.profile == "eager":
        own["traffic"] = constants["autocast"]
    kernels = own.pop("core_kernels", None)
    if kernels and profile.scores is not None:
        own["scores"] = replace(profile.scores, kernels=kernels)
    profile = replace(profile, attention=share, **own)
    if profile.fp8 < 1:
        profile = replace(profile, fp8=constants["rowwise"])
    if profile.hides:
        profile = replace(profile, hides=constants["async"])
    return replace(case.setting, device=replace(device, efficiency=efficiency), profile=profile)


def errors(constants: Constants, some: Iterable[Case]) -> Array:
    region_time.clear_cache()
    return np.array([case.error(constants) for case in some])


def derivatives(constants: Constants, some: Sequence[Case], at: Array) -> Array:
    """Return d error / d log(constant), a row for each case."""
    found = np.zeros((len(some), len(constants)))
    for column, key in enumerate(constants):
        rows = [row for row, case in enumerate(some) if case.depends_on(key)]
        moved = {**constants, key: constants[key] * math.exp(LITTLE)}
        found[rows, column] = (errors(moved, [some[row] for row in rows]) - at[rows]) / LITTLE
    return found


def weights(some: Sequence[Case], kept: Array) -> Array:
    """Weight of each case: ROWS for each source."""
    sources = [case.source for case, keep in zip(some, kept, strict=True) if keep]
    counts = {source: sources.count(source) for source in set(sources)}
    return np.array(
        [ROWS / counts[c.source] if k else 0.0 for c, k in zip(some, kept, strict=True)]
    )


def step(found: Array, at: Array, slope: Array, weight: Array) -> Array:
    """Return the most probable log constants under linear errors, by reweighted least squares."""
    means = np.array([math.log(value) for value, _ in PLAUSIBLE.values()])
    precision = np.diag([1 / spread**2 for _, spread in PLAUSIBLE.values()])
    new = found.copy()
    for _ in range(60):
        left = at + slope @ (new - found)
        each = weight / ERROR / np.maximum(np.abs(left), 0.003)
        matrix = slope.T @ (each[:, None] * slope) + precision
        wanted = slope.T @ (each * (slope @ found - at)) + precision @ means
        new = np.linalg.solve(matrix, wanted)
    return new


def named(logs: Array) -> dict[str, float]:
    return dict(zip(PLAUSIBLE, np.exp(logs).tolist(), strict=True))


@dataclass
class Linear:
    """Errors of all cases, and their derivatives, at a set of constants."""

    logs: Array
    at: Array
    slope: Array

    @classmethod
    def of(cls, logs: Array, some: Sequence[Case]) -> Linear:
        at = errors(named(logs), some)
        return cls(logs, at, derivatives(named(logs), some, at))


def report(name: str, found: Array, some: Sequence[Case]) -> dict[str, Any]:
    deciles = quantiles(found, n=10, method="inclusive")
    one = {
        "rows": len(some),
        "mape": mean(abs(math.exp(e) - 1) for e in found),
        "log_bias": float(np.mean(found)),
        "log_error_10": deciles[0],
        "log_error_90": deciles[-1],
    }
    error, bias = 100 * one["mape"], 100 * one["log_bias"]
    print(f"{name:50} {len(some):4} rows {error:5.1f} %  bias {bias:+.1f}")
    return rounded(one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--rounds", type=int, default=2, help="Gauss-Newton steps [2]")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=RESULT)
    given = parser.parse_args()
    every = cases(given.directory)
    start = np.array([math.log(value) for value, _ in PLAUSIBLE.values()])
    linear = Linear.of(start, every)
    everywhere = np.ones(len(every), dtype=bool)
    print("plausible:")
    by_source(linear.at, every)
    plausible = linear.at
    for _ in range(given.rounds):
        linear = Linear.of(
            step(linear.logs, linear.at, linear.slope, weights(every, everywhere)), every
        )
    print("fitted to all:")
    for key, value in named(linear.logs).items():
        print(f"  {key:24} {value:.3g}   (plausible {PLAUSIBLE[key][0]:.3g})")
    by_source(linear.at, every)
    publications: dict[str, Any] = {}
    rows = []
    print("left out:")
    for word in PUBLICATIONS:
        kept = np.array([word not in case.source for case in every])
        logs = linear.logs
        near = linear
        for _ in range(2):
            logs = step(near.logs, near.at, near.slope, weights(every, kept))
            near = replace(near, logs=logs, at=errors(named(logs), every))
        some = [case for case, keep in zip(every, kept, strict=True) if not keep]
        found = near.at[~kept]
        publications[word] = {
            "plausible": report(f"{word}: plausible", plausible[~kept], some),
            "fitted": report(f"{word}: fitted", linear.at[~kept], some),
            "left_out": report(f"{word}: left out", found, some),
        }
        by_source(found, some)
        rows += [
            (case.line, word, case.source, round(float(e), 4))
            for case, e in zip(some, found, strict=True)
        ]
    results = json.loads(given.output.read_text(encoding="utf-8"))
    results["publications"] = publications
    given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with LEFT_OUT.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("line", "publication", "source", "log_error"), *sorted(rows)]
        )


def by_source(found: Array, some: Sequence[Case]) -> None:
    for source in dict.fromkeys(case.source for case in some):
        rows = [n for n, case in enumerate(some) if case.source == source]
        report("  " + source[-48:], found[rows], [some[n] for n in rows]) if len(rows) > 1 else None


if __name__ == "__main__":
    main()
