"""Report a search: a table of the best layouts, and the best one as a spec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from llamac.look.text_table import TextTable
from llamac.plan.device.device import device_names
from llamac.plan.render.prediction_tables import (
    digits,
    gigabytes,
    percent,
    readable_days,
)
from llamac.plan.search.derived_spec import derived_toml, override_values, whole_toml
from llamac.plan.search.explore import WHY
from llamac.plan.search.rank_layout import Layout
from llamac.plan.search.search import Ranked, Search


def search_summary(found: Search) -> Iterator[str]:
    """Return how many layouts were tried and why the others were dropped."""
    spec, device = found.setting.spec, found.setting.device
    yield f"{spec.name} on {found.gpus:,} × {device.title}: {found.legal:,} legal layouts"
    for reason, words in WHY.items():
        if count := found.unfit[reason]:
            yield f"  {count:>9,} do not fit: {words}"
    if found.slower:
        yield f"  {found.slower:>9,} are slower than the rows below, by a lower bound"
    yield f"  {found.timed:>9,} fit and were timed"


def winners_table(found: Search) -> TextTable:
    """Return the table of the best layouts and their terms, in seconds per step."""
    rows = [_row(number, one) for number, one in enumerate(found.best, start=1)]
    head = ("", "layout", "tok/s/GPU", "MFU", "days", "GB", "a step", *TERMS)
    note = (
        "dp: data ranks that shard state; rep: replicas of them; vpp: stages per pipeline rank; "
        "mb: sequences per micro-batch.\nOf layouts that differ only in dp, rep and vpp, the best "
        "is shown. `--why 1 2` explains why the first one is faster than the second."
    )
    return TextTable(
        *("fastest first; seconds", head, rows, "><" + ">" * (len(head) - 2)),
        note=note,
        spare=len(TERMS),
    )


TERMS = ("compute", "tensor", "data", "bubble", "pipeline")


def _row(number: int, one: Ranked) -> tuple[str, ...]:
    prediction, seconds = one.prediction, one.prediction.seconds
    return (
        str(number),
        str(one.layout),
        digits(prediction.tokens_per_second_per_gpu),
        percent(prediction.mfu),
        digits(prediction.days),
        gigabytes(prediction.memory.total),
        f"{seconds.total:.3f}",
        *(f"{getattr(seconds, term):.3f}" for term in TERMS),
    )


def search_json(found: Search) -> dict[str, Any]:
    """Return the JSON values of `plan --search --json`."""
    return {
        "legal": found.legal,
        "does_not_fit": dict(found.unfit),
        "slower": found.slower,
        "timed": found.timed,
        "best": [{"layout": str(one.layout), **one.prediction.to_json()} for one in found.best],
    }


def winner_toml(found: Search, base: str, overrides: Sequence[str], out: Path) -> str:
    """Return the best layout as a spec for `out` that extends `base`, for `llamac build`.

    base: as the command line names it.
    """
    (best, *others), device = found.best, found.setting.device
    prediction, layout = best.prediction, best.layout
    spec, seconds = prediction.setting.spec, prediction.seconds
    changes = override_values(found.setting.spec, overrides) | _whole(layout)
    if device.name in device_names():
        changes["hardware.gpu"] = device.name
    terms = ", ".join(f"{term} {getattr(seconds, term):.3f}" for term in TERMS)
    above = [
        f"The fastest of {found.legal:,} layouts on {found.gpus:,} x {device.title}, predicted:",
        f"{digits(prediction.tokens_per_second_per_gpu)} tokens/s/GPU, MFU "
        f"{percent(prediction.mfu)}, {readable_days(prediction.days)} in all,",
        f"{gigabytes(prediction.memory.total)} of {gigabytes(device.memory)} GB.",
        f"A step takes {seconds.total:.3f} s: {terms}.",
    ]
    above += [f"Next: {o.layout}, {o.prediction.seconds.total:.3f} s." for o in others[:1]]
    count = spec.micro_batches
    where = "within a node" if layout.tensor <= device.gpus_per_node else "across nodes"
    notes = {
        "parallel": f"tensor ranks {where}; data ranks that share state: {layout.data_shard:,}",
        "batch": f"micro-batches a step: {count:,}; ranks with batches: {layout.data:,}",
        "recompute": "what computes least again of what fits",
    }
    name = f"{spec.name}-best"
    if found.setting.spec.recompute.budget is not None and layout.budget is None:
        return whole_toml(spec, name, above, notes)
    return derived_toml(base, out, name, changes, above, notes)


def _whole(layout: Layout) -> dict[str, Any]:
    """Return all parallel degrees, overriding those of the base spec."""
    degrees = {
        f"parallel.{one.name}": getattr(layout, one.name)
        for one in fields(layout)
        if one.name not in ("micro_batch", "checkpoint", "budget")
    }
    rest: dict[str, Any] = {
        "batch.micro_batch": layout.micro_batch,
        "recompute.policy": layout.checkpoint,
    }
    if layout.budget is not None:
        rest["recompute.budget"] = layout.budget
    return degrees | rest
