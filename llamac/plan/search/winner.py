"""Report the result of a search: tables, JSON, and the best layout as a spec."""

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
from llamac.plan.search.derived_spec import derived_toml, full_toml, override_values
from llamac.plan.search.explore import UNFIT_REASONS
from llamac.plan.search.rank_layout import Layout
from llamac.plan.search.search import RankedLayout, SearchResult


def search_summary(result: SearchResult) -> Iterator[str]:
    """Yield lines of text on how many layouts are legal, do not fit, were pruned or were timed."""
    spec, device = result.setting.spec, result.setting.device
    yield f"{spec.name} on {result.gpus:,} × {device.title}: {result.legal:,} legal layouts"
    for reason, words in UNFIT_REASONS.items():
        if count := result.unfit[reason]:
            yield f"  {count:>9,} do not fit: {words}"
    if result.slower:
        yield f"  {result.slower:>9,} are slower than the rows below, by a lower bound"
    yield f"  {result.timed:>9,} fit and were timed"


def winners_table(result: SearchResult) -> TextTable:
    """Return a table of the best layouts: throughput, memory, and seconds of a step by cause."""
    rows = [_row(number, ranked) for number, ranked in enumerate(result.best, start=1)]
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


def _row(number: int, ranked: RankedLayout) -> tuple[str, ...]:
    prediction, seconds = ranked.prediction, ranked.prediction.seconds
    return (
        str(number),
        str(ranked.layout),
        digits(prediction.tokens_per_second_per_gpu),
        percent(prediction.mfu),
        digits(prediction.days),
        gigabytes(prediction.memory.total),
        f"{seconds.total:.3f}",
        *(f"{getattr(seconds, term):.3f}" for term in TERMS),
    )


def search_json(result: SearchResult) -> dict[str, Any]:
    """Return the JSON values of `plan --search --json`: counts of layouts, and the best ones."""
    return {
        "legal": result.legal,
        "does_not_fit": dict(result.unfit),
        "slower": result.slower,
        "timed": result.timed,
        "best": [
            {"layout": str(ranked.layout), **ranked.prediction.to_json()} for ranked in result.best
        ],
    }


def winner_toml(result: SearchResult, base: str, overrides: Sequence[str], out: Path) -> str:
    """Return the TOML of a spec with the best layout, for the file `out`.

    base: spec that it extends, as named on the command line. overrides: arguments of `--set`.
    If the base has a recomputation budget and the best layout none, all keys are written instead.
    """
    (best, *others), device = result.best, result.setting.device
    prediction, layout = best.prediction, best.layout
    spec, seconds = prediction.setting.spec, prediction.seconds
    changes = override_values(result.setting.spec, overrides) | _layout_keys(layout)
    if device.name in device_names():
        changes["hardware.gpu"] = device.name
    terms = ", ".join(f"{term} {getattr(seconds, term):.3f}" for term in TERMS)
    header = [
        f"The fastest of {result.legal:,} layouts on {result.gpus:,} x {device.title}, predicted:",
        f"{digits(prediction.tokens_per_second_per_gpu)} tokens/s/GPU, MFU "
        f"{percent(prediction.mfu)}, {readable_days(prediction.days)} in all,",
        f"{gigabytes(prediction.memory.total)} of {gigabytes(device.memory)} GB.",
        f"A step takes {seconds.total:.3f} s: {terms}.",
    ]
    header += [f"Next: {o.layout}, {o.prediction.seconds.total:.3f} s." for o in others[:1]]
    count = spec.micro_batches
    where = "within a node" if layout.tensor <= device.gpus_per_node else "across nodes"
    notes = {
        "parallel": f"tensor ranks {where}; data ranks that share state: {layout.data_shard:,}",
        "batch": f"micro-batches a step: {count:,}; ranks with batches: {layout.data:,}",
        "recompute": "what computes least again of what fits",
    }
    name = f"{spec.name}-best"
    if result.setting.spec.recompute.budget is not None and layout.budget is None:
        return full_toml(spec, name, header, notes)
    return derived_toml(base, out, name, changes, header, notes)


def _layout_keys(layout: Layout) -> dict[str, Any]:
    """Return all parallel degrees, overriding those of the base spec."""
    degrees = {
        f"parallel.{field.name}": getattr(layout, field.name)
        for field in fields(layout)
        if field.name not in ("micro_batch", "checkpoint", "budget")
    }
    rest: dict[str, Any] = {
        "batch.micro_batch": layout.micro_batch,
        "recompute.policy": layout.checkpoint,
    }
    if layout.budget is not None:
        rest["recompute.budget"] = layout.budget
    return degrees | rest
