"""Search for the fastest layouts that fit.

Model splits (`layout_enumeration.py`) are explored (`explore.py`) in the order of their lower
bounds (`lower_bound.py`); splits whose bound exceeds the best are pruned. The best layouts are
compiled as `llamac build` does, and ranked by predicted seconds.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from typing import Any

from llamac.passes.analysis.peak_memory import CONTEXT, FRAGMENTS
from llamac.passes.budget import BudgetError
from llamac.plan.predict import predict
from llamac.plan.prediction import Prediction
from llamac.plan.search.explore import UNFIT_REASONS, BestLayouts, explore, task_priority, tasks_of
from llamac.plan.search.rank_layout import POLICIES, Layout
from llamac.plan.setting import Setting
from llamac.plan.target import LayoutError
from llamac.plan.uncertainty import fit_of, memory_range
from llamac.spec.validation.errors import join_options

WAVE = 4  # tasks per batch
BUDGETED = 4  # layouts also compiled with checkpoint = "budget"
BUDGET_STEP = 100_000_000  # bytes
SPARE = 2  # further layouts to compile, since exact predictions may change their order


@dataclass(frozen=True)
class RankedLayout:
    """A layout with the prediction of its compiled Program."""

    layout: Layout
    prediction: Prediction


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

    Attributes:
        best: Layouts, fastest first, at most one of each kind (`Layout.kind`).
        legal: Number of layouts that the spec allows on the GPUs, with each checkpointing policy.
        unfit: Number of layouts that do not fit the device, by key of `UNFIT_REASONS`.
        slower: Number of layouts that were pruned by a lower bound on their seconds.
        timed: Number of layouts that fit and were timed.
    """

    setting: Setting
    gpus: int
    best: tuple[RankedLayout, ...]
    legal: int
    unfit: Counter[str]
    slower: int
    timed: int


def search(
    setting: Setting,
    gpus: int,
    top: int = 10,
    workers: int | None = None,
    progress: Callable[[int, int, int], None] = lambda done, total, timed: None,
) -> SearchResult:
    """Find the `top` fastest layouts of a setting's spec that fit its device.

    Args:
        setting: Spec, whose layout is replaced, with its device and framework.
        gpus: Number of GPUs, all of which a layout uses.
        top: Maximum number of layouts to return.
        workers: Number of processes; None means one per core.
        progress: Called with (model splits explored, all model splits, layouts timed).

    Raises LayoutError if no layout is legal, or none fits.
    """
    tasks = sorted(tasks_of(setting, gpus), key=task_priority)
    if not tasks:
        raise LayoutError(_impossible(setting, gpus))
    legal, total = len(POLICIES) * sum(task.legal for task in tasks), len(tasks)
    best, tally, min_bytes = BestLayouts(top + SPARE), Counter[str](), float("inf")
    with _process_map(workers or len(os.sched_getaffinity(0))) as run_all:
        while wave := [task for task in tasks[:WAVE] if task.bound < best.limit]:
            tasks = tasks[len(wave) :]
            for result in run_all(explore, [(task, best.limit, best.keep) for task in wave]):
                for seconds, layout in result.best:
                    best.add(seconds, layout)
                tally += result.tally
                min_bytes = min(min_bytes, result.min_bytes)
            progress(total - len(tasks), total, tally["timed"])
        progress(total, total, tally["timed"])
        tally["slower"] += len(POLICIES) * sum(task.legal for task in tasks)
        candidates = [(setting, layout) for _, layout in best.sorted]
        exact = [
            result
            for result in run_all(_compile_layout, candidates)
            if result and fit_of(result.prediction) != "no"
        ]
        exact.sort(key=_rank_key)
        candidates = [(setting, layout) for layout in _budget_layouts(exact, setting)]
        exact += [
            result
            for result in run_all(_compile_layout, candidates)
            if result and _gains(result, exact)
        ]
    if not exact:
        raise LayoutError(_nothing_fits(setting, gpus, tally, min_bytes))
    exact.sort(key=_rank_key)
    return SearchResult(
        setting,
        gpus,
        tuple(exact[:top]),
        legal=legal,
        unfit=Counter({reason: tally[reason] for reason in UNFIT_REASONS}),
        slower=tally["slower"],
        timed=tally["timed"],
    )


# -- compiled candidates ----------------------------------------------------------------


def _compile_layout(setting: Setting, layout: Layout) -> RankedLayout | None:
    """Return a layout's prediction as `llamac plan` makes it; None if its budget is too small."""
    spec = setting.spec.replace(layout.changes(setting.spec))
    try:
        return RankedLayout(layout, predict(replace(setting, spec=spec)))
    except BudgetError:
        return None


def _budget_layouts(ranked: Sequence[RankedLayout], setting: Setting) -> list[Layout]:
    """Return the best layouts with the device's memory as recomputation budget.

    A budget is expensive to compile, so only the best layouts are tried with one.
    """
    memory = (setting.device.memory / memory_range().median - CONTEXT) / (1 + FRAGMENTS)
    budget = int(memory / BUDGET_STEP) * BUDGET_STEP
    if budget <= 0:
        return []
    layouts = (
        replace(candidate.layout, checkpoint="budget", budget=budget) for candidate in ranked
    )
    return list(dict.fromkeys(layouts))[:BUDGETED]


def _gains(candidate: RankedLayout, others: Sequence[RankedLayout]) -> bool:
    """Return whether a layout with a budget is faster than with every other policy."""
    without_policy = replace(candidate.layout, checkpoint="", budget=None)
    same = [other for other in others if replace(other.layout, checkpoint="") == without_policy]
    fastest = min(other.prediction.seconds.total for other in same)
    return fit_of(candidate.prediction) != "no" and candidate.prediction.seconds.total < fastest * (
        1 - 1e-9
    )


def _rank_key(ranked: RankedLayout) -> tuple[float, str]:
    return ranked.prediction.seconds.total, str(ranked.layout)


# -- processes -------------------------------------------------------------------------------------


@contextmanager
def _process_map(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Yield a `map` over argument tuples with ordered results, run in forked processes.

    Forking avoids importing torch again. With one worker, or without fork, it runs in this process.
    """
    gc.freeze()  # exclude torch's million objects from garbage collection
    try:
        if workers < 2 or not hasattr(os, "fork"):
            yield lambda function, given: [function(*one) for one in given]
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            yield lambda function, given: pool.map(function, *zip(*given, strict=True))
    finally:
        gc.unfreeze()


# -- nothing found ---------------------------------------------------------------------------------


def _impossible(setting: Setting, gpus: int) -> str:
    below = (n for n in range(gpus - 1, 0, -1) if next(tasks_of(setting, n), None))
    above = (n for n in range(gpus + 1, 4 * gpus + 64) if next(tasks_of(setting, n), None))
    near = [*islice(below, 1), *islice(above, 1)]
    return (
        f"{setting.spec.name} has no layout on {gpus:,} GPUs: heads, layers and positions do not "
        f"divide over them, nor does a step of {setting.spec.batch.sequences:,} sequences; "
        f"{join_options(near)} GPUs would do"
    )


def _nothing_fits(setting: Setting, gpus: int, tally: Counter[str], min_bytes: float) -> str:
    device = setting.device
    reasons = ", ".join(
        f"{UNFIT_REASONS[key]} in {tally[key]:,}" for key in UNFIT_REASONS if tally[key]
    )
    laid_out = min_bytes < float("inf")  # otherwise activations alone were too much
    smallest = f"; the smallest takes {min_bytes / 1e9:,.1f} GB" if laid_out else ""
    return (
        f"no layout of {setting.spec.name} on {gpus:,} GPU{'s' * (gpus > 1)} fits the "
        f"{device.memory / 1e9:.1f} GB of {device.title}: {reasons}{smallest}. "
        "More GPUs (--gpus), a device with more memory (--device), "
        "shorter sequences (--set batch.sequence_length=…) or a smaller model are the ways out"
    )
