"""Fits the planner's constants to published runs: `python benchmarks/plan_fit.py DIR`.

Coordinate search over a few physical constants, each kept near a value that is plausible before any
run is seen: how much of a peak matmuls and attention sustain, how much memory-bound ops move and
how many kernels they are, what the host takes to start one, how much transfers slow compute beside
them. The error is the mean over sources of the mean |log(predicted / measured)|, on the half of the
(source, model) groups that `plan_accuracy.is_fitted` names. It prints what it finds; the values are
then written by hand, rounded, into llamac/plan/{device,profile}.py and llamac/plan/devices/.

`--without WORD` leaves out all rows whose source has the word, prints their errors under constants
that never saw them, and puts those into the results of plan_accuracy.py.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

from plan_accuracy import RESULT, is_fitted, rounded

from llamac.ir.program import Program
from llamac.plan.cost.framework import FRAMEWORKS
from llamac.plan.cost.step_model import StepModel
from llamac.plan.published.row_setting import published_run
from llamac.plan.published.rows import number
from llamac.plan.setting import Setting

BEFORE = {
    # A100, H100 and its 500 W form: of the peak
    "a100.matmul": 0.82,
    "a100.attention": 0.55,
    "h100.matmul": 0.63,
    "h100.attention": 0.55,
    "500w.matmul": 0.54,
    "500w.attention": 0.50,
    # of all: backward of forward attention, older kernels' of newer, fp8's of bf16's
    "backward": 0.85,
    "fp8": 0.95,
    "rowwise": 0.65,
    "older_flash": 0.52,
    "first_flash": 0.70,
    "narrow": 0.2,
    "fill": 128.0,
    "kernel": 3e-6,
    "contention": 0.12,
    "async": 0.5,
    # of styles
    "eager.traffic": 1.8,
    "eager.kernels": 4.0,
    "eager.loss_bytes": 32.0,
    "megatron.traffic": 1.3,
    "megatron.kernels": 4.0,
    "megatron.loss_bytes": 16.0,
    "megatron.core_kernels": 16.0,
    "megatron.host": 15e-6,
    "compiled.traffic": 1.3,
    "compiled.loss_bytes": 16.0,
}
"""What is fitted, and from where."""

BOUNDS = {"contention": (0.02, 1.5), "fp8": (0.7, 1.15), "compiled.traffic": (1.0, 1.6)}
PULL = 0.002  # towards BEFORE, of a squared log
EVERY = 5  # of vTrain's rows, one: they differ in little but numbers of layers

Constants = Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """A row as a setting. profile: its key in FRAMEWORKS. speed: log of its tokens/s."""

    source: str
    fitted: bool
    profile: str
    setting: Setting
    program: Program
    speed: float

    def error(self, constants: Constants) -> float:
        """log(predicted / measured)."""
        setting = changed(self, constants)
        seconds = StepModel(setting, self.program).seconds().total
        return math.log(setting.tokens / seconds / setting.spec.parallel.ranks) - self.speed


def cases(directory: Path) -> list[Case]:
    found = []
    with (directory / "throughput.csv").open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file)):
            if "vTrain" in row["source"] and hashlib.sha256(b"%d" % line).digest()[0] % EVERY:
                continue
            if speed := number(row, "tok_s_gpu"):
                run = published_run(row)
                key = (run.setting.profile.host, run.setting.profile.traffic)
                profile = next(k for k, v in FRAMEWORKS.items() if (v.host, v.traffic) == key)
                fields = (row["source"], is_fitted(row), profile, run.setting, run.program)
                found.append(Case(*fields, math.log(speed)))
    return found


def changed(case: Case, constants: Constants) -> Setting:
    """The case's setting under other constants."""
    device, profile = case.setting.device, case.setting.profile
    kind = "500w" if "500w" in device.name else device.name[:1] + "100"
    attention = constants[f"{kind}.attention"]
    efficiency = replace(
        device.efficiency,
        matmul=constants[f"{kind}.matmul"],
        fp8=constants[f"{kind}.matmul"] * constants["fp8"],
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
    kernels = own.pop("core_kernels", None)
    if kernels and profile.scores is not None:
        own["scores"] = replace(profile.scores, kernels=kernels)
    profile = replace(profile, attention=share, **own)
    if profile.fp8 < 1:
        profile = replace(profile, fp8=constants["rowwise"])
    if profile.hides:
        profile = replace(profile, hides=constants["async"])
    return replace(case.setting, device=replace(device, efficiency=efficiency), profile=profile)


def loss(constants: Constants, some: Sequence[Case]) -> float:
    by_source = defaultdict(list)
    for case in some:
        by_source[case.source].append(abs(case.error(constants)))
    pull = sum(math.log(constants[key] / value) ** 2 for key, value in BEFORE.items())
    return mean(map(mean, by_source.values())) + PULL * pull


def fit(some: Sequence[Case], seconds: float) -> dict[str, float]:
    """Coordinate search: a step that helped grows, one that did not shrinks. Deterministic but for
    when the time is up."""
    best, least = dict(BEFORE), loss(BEFORE, some)
    step, keys = dict.fromkeys(BEFORE, 0.15), list(BEFORE)
    chance, end = random.Random(1), time.monotonic() + seconds
    while time.monotonic() < end and max(step.values()) > 0.005:
        chance.shuffle(keys)
        for key in keys:
            low, high = BOUNDS.get(key, (0.0, math.inf))
            tries = [{**best, key: best[key] * math.exp(way * step[key])} for way in (1, -1)]
            tried = [(loss(one, some), one) for one in tries if low <= one[key] <= high]
            found, one = min(tried, key=lambda pair: pair[0], default=(math.inf, best))
            step[key] *= 1.3 if found < least else 0.5
            if found < least:
                least, best = found, one
    return best


def mape(constants: Constants, some: Sequence[Case]) -> float:
    return mean(abs(math.exp(case.error(constants)) - 1) for case in some)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--without", metavar="WORD", help="of sources, which to leave out")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to search [300]")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=RESULT)
    given = parser.parse_args()
    every = cases(given.directory)
    if given.without is None:
        found = fit([case for case in every if case.fitted], given.seconds)
        for key, value in found.items():
            print(f"{key:24} {value:.3g}")
        print(f"fitted {mape(found, [c for c in every if c.fitted]):.3f}")
        print(f"unseen {mape(found, [c for c in every if not c.fitted]):.3f}")
        return
    left_out = [case for case in every if given.without in case.source]
    found = fit([case for case in every if given.without not in case.source], given.seconds)
    print(f"{given.without}: {len(left_out)} rows, {mape(found, left_out):.3f}")
    results = json.loads(given.output.read_text(encoding="utf-8"))
    errors = [case.error(found) for case in left_out]
    deciles = quantiles(errors, n=10, method="inclusive")
    one = {"rows": len(left_out), "mape": mape(found, left_out), "log_bias": mean(errors)}
    one |= {"log_error_10": deciles[0], "log_error_90": deciles[-1]}
    results.setdefault("leave_one_out", {})[given.without] = rounded(one)
    given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
