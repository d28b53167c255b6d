"""Compare two layouts: where their seconds and bytes differ, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llamac.look.text_table import TextTable
from llamac.plan.prediction import Prediction
from llamac.plan.render.prediction_tables import (
    MEMORY_LABELS,
    TIME_LABELS,
    digits,
    gigabytes,
    link_name,
    percent,
    readable_seconds,
    stride_of,
)
from llamac.plan.search.rank_layout import Layout, layout_of

LARGEST = 3  # number of terms that are explained
SMALLEST = 0.02  # smallest share of all differences that is explained


@dataclass(frozen=True)
class Side:
    """A layout's predicted step, with the figures by which two layouts are compared.

    prediction: the predicted step.
    """

    prediction: Prediction

    @property
    def layout(self) -> Layout:
        """Return the layout of the prediction."""
        return layout_of(self.prediction.setting.spec)

    @property
    def micro_batches(self) -> int:
        """Return the number of micro-batches per data-parallel rank and step."""
        return self.prediction.setting.spec.micro_batches

    @property
    def flops(self) -> float:
        """Return the mean FLOPs of a rank per step, including recomputation."""
        return self.prediction.hardware_flops / self.layout.ranks

    @property
    def rate(self) -> float:
        """Return the FLOP/s of a rank in forward and backward passes, without waits."""
        return self.flops / self.prediction.seconds.compute

    @property
    def bubble(self) -> float:
        """Return the pipeline bubble relative to compute time, as if all stages were equal."""
        layout = self.layout
        return (layout.pipeline - 1) / layout.pipeline_virtual / self.micro_batches

    def sent(self, axis: str) -> float:
        """Return the bytes that a rank sends per step on a mesh axis; 0 if there are none."""
        return self.prediction.communication.get(axis, 0.0)

    def link(self, axis: str) -> str:
        """Return the slowest link that a mesh axis crosses, with its bandwidth, as text."""
        prediction = self.prediction
        ranks = prediction.setting.spec.parallel.mesh[axis]
        return link_name(prediction.setting.device, ranks, stride_of(axis, prediction))


def verdict(first: Prediction, second: Prediction) -> str:
    """Return a sentence on which layout is faster and by how much.

    If one does not fit the device, the sentence names that one (the first if neither fits).
    """
    a, b = (Side(prediction) for prediction in (first, second))
    seconds = first.seconds.total, second.seconds.total
    ratio = max(seconds) / min(seconds) - 1
    names = [str(a.layout), str(b.layout)]
    for side, name in zip((a, b), names, strict=True):
        if not side.prediction.fits:
            peak, capacity = side.prediction.memory.total, side.prediction.setting.device.memory
            sizes = f"{gigabytes(peak)} of {gigabytes(capacity)} GB"
            return (
                f"{name} does not fit ({sizes}); if it did, a step would take {_against(seconds)}"
            )
    if ratio < 5e-4:
        return f"both are equally fast: a step takes {readable_seconds(seconds[0])} in both"
    faster, slower = names if seconds[0] < seconds[1] else reversed(names)
    return f"{faster} beats {slower} by {percent(ratio)}: a step takes {_against(sorted(seconds))}"


def _against(seconds: tuple[float, ...] | list[float]) -> str:
    return " against ".join(map(readable_seconds, seconds))


def term_differences(first: Prediction, second: Prediction) -> Iterator[TextTable]:
    """Yield tables of the seconds of a step and the GB of a rank: in A, in B and B - A.

    A is `first`, B is `second`.
    """
    terms = _terms(first, second, "seconds", TIME_LABELS)
    rows = [
        (words, *map(_seconds, numbers), _format_difference(numbers, _seconds))
        for words, numbers in terms
    ]
    totals = first.seconds.total, second.seconds.total
    rows.append(("a step", *map(_seconds, totals), _format_difference(totals, _seconds)))
    yield TextTable("seconds of a step", ("", "A", "B", "B - A"), rows, "<>>>", total=True)
    terms = _terms(first, second, "memory", MEMORY_LABELS)
    rows = [
        (words, *map(gigabytes, sizes), _format_difference(sizes, gigabytes))
        for words, sizes in terms
    ]
    totals = first.memory.total, second.memory.total
    rows.append(("peak", *map(gigabytes, totals), _format_difference(totals, gigabytes)))
    yield TextTable("GB of a rank", ("", "A", "B", "B - A"), rows, "<>>>", total=True)


def reasons(first: Prediction, second: Prediction) -> Iterator[str]:
    """Yield sentences on why the largest terms differ: at most `LARGEST` of time, then of memory.

    They call `first` A and `second` B.
    """
    a, b = Side(first), Side(second)
    for part, size in (("seconds", readable_seconds), ("memory", _gb)):
        first_terms, second_terms = getattr(first, part), getattr(second, part)
        gaps = {
            key: getattr(second_terms, key) - getattr(first_terms, key)
            for key in REASONS
            if key in vars(first_terms)
        }
        total = sum(map(abs, gaps.values()))
        order = sorted(gaps, key=lambda key: -abs(gaps[key]))
        for key in order[:LARGEST]:
            if total and abs(gaps[key]) >= SMALLEST * total:
                words = (TIME_LABELS if part == "seconds" else MEMORY_LABELS)[key]
                direction = "more" if gaps[key] > 0 else "less"
                yield f"{words}: B {size(abs(gaps[key]))} {direction}; {REASONS[key](a, b)}"


def _terms(
    first: Prediction, second: Prediction, part: str, names: dict[str, str]
) -> Iterator[tuple[str, tuple[float, float]]]:
    first_part, second_part = getattr(first, part), getattr(second, part)
    for key, words in names.items():
        both = getattr(first_part, key), getattr(second_part, key)
        if any(both):
            yield words, both


def _seconds(number: float) -> str:
    return f"{number:.3f}"


def _gb(nbytes: float) -> str:
    return f"{gigabytes(nbytes)} GB"


def _format_difference(both: tuple[float, float], show: Callable[[float], str]) -> str:
    gap = both[1] - both[0]
    return f"{'+' if gap >= 0 else '−'}{show(abs(gap))}"


# -- reasons: of each term, what it follows from, in A and in B ------------------------------------


def _compute(a: Side, b: Side) -> str:
    rates = [f"{digits(side.rate / 1e12)} TFLOP/s" for side in (a, b)]
    work = b.flops / a.flops - 1
    text = f"A computes at {rates[0]}, B at {rates[1]}"
    if abs(work) > 1e-3:
        again = a.layout.checkpoint, b.layout.checkpoint
        text += f", and B runs {percent(abs(work))} {'more' if work > 0 else 'fewer'} FLOPs"
        text += f" ({again[0]} against {again[1]})" if again[0] != again[1] else ""
    sizes = [_share(s.layout.micro_batch, s.layout.tensor * s.layout.context) for s in (a, b)]
    return f"{text}; a matmul has the work of {sizes[0]} in A, of {sizes[1]} in B"


def _share(sequences: int, ranks: int) -> str:
    """Return a share as text: `4 sequences / 8 ranks`."""
    many = "a sequence" if sequences == 1 else f"{sequences} sequences"
    return many if ranks == 1 else f"{many} / {ranks} ranks"


def _tensor(a: Side, b: Side) -> str:
    def of(side: Side) -> str:
        found = [
            f"{axis} {ranks} sends {_gb(side.sent(axis))} {side.link(axis)}"
            for axis, ranks in (("tp", side.layout.tensor), ("cp", side.layout.context))
            if ranks > 1
        ]
        plain = " in all-reduces" * (side.layout.tensor > 1 and not side.layout.sequence)
        return " and ".join(found) + plain if found else "there are no such ranks"

    return f"in A {of(a)}, in B {of(b)}; the rest is hidden under matmuls"


def _data(a: Side, b: Side) -> str:
    def of(side: Side) -> str:
        layout = side.layout
        shared = layout.data_shard * layout.context
        if layout.data * layout.context == 1:
            return "there are no such ranks"
        how = f"{shared:,} ranks share state" if shared > 1 else "every rank has all state"
        pace = "once a step" if layout.pipeline > 1 else f"for each of {side.micro_batches}"
        pace += "" if layout.pipeline > 1 else " micro-batches"
        gathered = f" and gather it {pace}" if shared > 1 else ""
        return f"{how}{gathered}, {_gb(side.sent('dp_shard') + side.sent('dp_replicate'))} sent"

    return f"in A {of(a)}; in B {of(b)}"


def _bubble(a: Side, b: Side) -> str:
    def of(side: Side) -> str:
        layout = side.layout
        if layout.pipeline == 1:
            return "no pipeline"
        virtual = f" / {layout.pipeline_virtual}" if layout.pipeline_virtual > 1 else ""
        return (
            f"a bubble of ({layout.pipeline} - 1){virtual} micro-batches to {side.micro_batches} "
            f"computed, {percent(side.bubble)}"
        )

    return f"A has {of(a)}; B has {of(b)}"


def _pipeline(a: Side, b: Side) -> str:
    def of(side: Side) -> str:
        if side.layout.pipeline == 1:
            return "sends nothing"
        return f"sends {_gb(side.sent('pp'))} {side.link('pp')}"

    return f"A {of(a)}, B {of(b)}"


def _shared(a: Side, b: Side) -> str:
    def of(side: Side) -> str:
        layout = side.layout
        share = layout.data_shard * layout.context
        sharded = f"sharded over {share:,} ranks" if share > 1 else "on every rank"
        return f"{digits(side.prediction.per_rank / 1e9)}B parameters {sharded}"

    return f"in A {of(a)}, in B {of(b)}"


def _gathered(a: Side, b: Side) -> str:
    def of(side: Side) -> str:
        layout = side.layout
        if layout.data_shard * layout.context == 1:
            return "gathers nothing"
        whole = "all of a stage's layers" if layout.pipeline > 1 else "two layers"
        waits = ", and gradients of all layers" if side.micro_batches > 1 else ""
        return f"holds {whole} gathered{waits}"

    return f"A {of(a)}; B {of(b)}"


def _activations(a: Side, b: Side) -> str:
    def of(side: Side) -> str:
        layout = side.layout
        in_flight = f", {layout.pipeline} or more micro-batches at once" * (layout.pipeline > 1)
        split = layout.tensor * layout.context
        sequences = _share(layout.micro_batch, split)
        return f"saves those of {sequences} (checkpointing {layout.checkpoint}){in_flight}"

    return f"A {of(a)}; B {of(b)}"


REASONS: dict[str, Callable[[Side, Side], str]] = {
    "compute": _compute,
    "tensor": _tensor,
    "data": _data,
    "bubble": _bubble,
    "pipeline": _pipeline,
    "optimizer": _shared,
    "parameters": _shared,
    "gradients": _shared,
    "communication": _gathered,
    "activations": _activations,
}
