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
from llamac.plan.search.explore import WHY, Best, explore, promising, tasks_of
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
class Ranked:
    """A layout with the prediction of its fully compiled Program."""

    layout: Layout
    prediction: Prediction


@dataclass(frozen=True)
class Search:
    """Result of a search.

    Attributes:
        best: Fastest first, one of each kind (`Layout.kind`).
        legal: Legal layouts; unfit: those that do not fit, by reason; slower: those pruned by a
            bound; timed: those that fit and were timed.
    """

    setting: Setting
    gpus: int
    best: tuple[Ranked, ...]
    legal: int
    unfit: Counter[str]
    slower: int
    timed: int


def search(
    setting: Setting,
    gpus: int,
    top: int = 10,
    workers: int | None = None,
    progress: Callable[[int, int, int], None] = lambda done, whole, timed: None,
) -> Search:
    """Find the `top` fastest layouts of a setting's spec that fit its device.

    Args:
        workers: Processes; default: one for each core.
        progress: Called with (shapes explored, all shapes, layouts timed).

    Raises LayoutError where no layout is legal, or none fits.
    """
    tasks = sorted(tasks_of(setting, gpus), key=promising)
    if not tasks:
        raise LayoutError(_impossible(setting, gpus))
    legal, whole = len(POLICIES) * sum(task.legal for task in tasks), len(tasks)
    best, tally, least = Best(top + SPARE), Counter[str](), float("inf")
    with _each(workers or len(os.sched_getaffinity(0))) as each:
        while wave := [task for task in tasks[:WAVE] if task.bound < best.limit]:
            tasks = tasks[len(wave) :]
            for one in each(explore, [(task, best.limit, best.keep) for task in wave]):
                for seconds, layout in one.best:
                    best.add(seconds, layout)
                tally += one.tally
                least = min(least, one.least)
            progress(whole - len(tasks), whole, tally["timed"])
        progress(whole, whole, tally["timed"])
        tally["slower"] += len(POLICIES) * sum(task.legal for task in tasks)
        given = [(setting, layout) for _, layout in best.sorted]
        exact = [one for one in each(_compiled, given) if one and fit_of(one.prediction) != "no"]
        exact.sort(key=_fastest)
        given = [(setting, layout) for layout in _budgeted(exact, setting)]
        exact += [one for one in each(_compiled, given) if one and _gains(one, exact)]
    if not exact:
        raise LayoutError(_nothing_fits(setting, gpus, tally, least))
    exact.sort(key=_fastest)
    return Search(
        setting,
        gpus,
        tuple(exact[:top]),
        legal=legal,
        unfit=Counter({reason: tally[reason] for reason in WHY}),
        slower=tally["slower"],
        timed=tally["timed"],
    )


# -- compiled candidates ----------------------------------------------------------------


def _compiled(setting: Setting, layout: Layout) -> Ranked | None:
    """Return a layout's prediction as `llamac plan` makes it; None if its budget is too small."""
    spec = setting.spec.replace(layout.changes(setting.spec))
    try:
        return Ranked(layout, predict(replace(setting, spec=spec)))
    except BudgetError:
        return None


def _budgeted(found: Sequence[Ranked], setting: Setting) -> list[Layout]:
    """Return the best layouts with the device's memory as recomputation budget.

    A budget is expensive to compile, so only the best layouts are tried with one.
    """
    memory = (setting.device.memory / memory_range().middle - CONTEXT) / (1 + FRAGMENTS)
    budget = int(memory / BUDGET_STEP) * BUDGET_STEP
    if budget <= 0:
        return []
    layouts = (replace(one.layout, checkpoint="budget", budget=budget) for one in found)
    return list(dict.fromkeys(layouts))[:BUDGETED]


def _gains(one: Ranked, others: Sequence[Ranked]) -> bool:
    """Return whether a layout with a budget is faster than with every other policy."""
    bare = replace(one.layout, checkpoint="", budget=None)
    same = [other for other in others if replace(other.layout, checkpoint="") == bare]
    least = min(other.prediction.seconds.total for other in same)
    return fit_of(one.prediction) != "no" and one.prediction.seconds.total < least * (1 - 1e-9)


def _fastest(one: Ranked) -> tuple[float, str]:
    return one.prediction.seconds.total, str(one.layout)


# -- processes -------------------------------------------------------------------------------------


@contextmanager
def _each(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
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


def _nothing_fits(setting: Setting, gpus: int, tally: Counter[str], least: float) -> str:
    device = setting.device
    reasons = ", ".join(f"{WHY[key]} in {tally[key]:,}" for key in WHY if tally[key])
    laid_out = least < float("inf")  # otherwise activations alone were too much
    smallest = f"; the smallest takes {least / 1e9:,.1f} GB" if laid_out else ""
    return (
        f"no layout of {setting.spec.name} on {gpus:,} GPU{'s' * (gpus > 1)} fits the "
        f"{device.memory / 1e9:.1f} GB of {device.title}: {reasons}{smallest}. "
        "More GPUs (--gpus), a device with more memory (--device), "
        "shorter sequences (--set batch.sequence_length=…) or a smaller model are the ways out"
    )
