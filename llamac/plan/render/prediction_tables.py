"""Print a prediction as tables: memory, time, traffic, throughput and their uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.text import Text

from llamac.look.console import show
from llamac.look.text_table import TextTable
from llamac.plan.device.device import Device
from llamac.plan.energy import CARBON, PUE, energy
from llamac.plan.prediction import Prediction
from llamac.plan.timeline.breakdown import WITHIN, link_of, ops, regions, transfer_costs
from llamac.plan.timeline.step import StepTimeline
from llamac.plan.uncertainty import CALIBRATED_CPU, UNCALIBRATED, fit_of, uncertainty

MEMORY_LABELS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "logits": "logits",
    "communication": "gathered and in transfer",
    "overhead": "overhead: the process, the allocator",
}
"""Labels of the fields of `Memory`, in the order of the table's rows."""

TIME_LABELS = {
    "compute": "compute",
    "tensor": "waiting for tensor and context ranks",
    "data": "waiting for data ranks",
    "bubble": "pipeline bubble",
    "pipeline": "waiting for pipeline ranks",
    "optimizer": "optimizer",
}
"""Labels of the fields of `Seconds`, in the order of the table's rows."""


def print_prediction(prediction: Prediction, extra_tables: Iterable[TextTable] = ()) -> None:
    """Print a prediction's headings and tables to stdout, followed by `extra_tables`."""
    style = {"yes": "good", "tight": "warn", "no": "bad"}[fit_of(prediction)]
    verdict = Text(headline(prediction), style)
    show(*prediction_heading(prediction), verdict, *prediction_tables(prediction), *extra_tables)


def prediction_heading(prediction: Prediction) -> tuple[str, str]:
    """Return (title, subtitle) of a prediction: model and devices; layout and batch."""
    spec, device = prediction.setting.spec, prediction.setting.device
    parallel, batch, count = spec.parallel, spec.batch, spec.micro_batches
    degrees = [f"{axis} {size}" for axis, size in parallel.mesh.items() if size > 1]
    layout = " × ".join(degrees) or "one rank"
    turns = f"{count:,} micro-batches" if count > 1 else "a micro-batch"
    return (
        f"{spec.name}: {prediction.parameters:,} parameters on {parallel.ranks:,} × {device.title}",
        f"{layout}; {turns} of {batch.micro_batch} × {batch.sequence_length:,} tokens a step; "
        f"recomputation {spec.recompute.policy}, compute {spec.precision.compute}",
    )


VERDICT = {"yes": "fits", "tight": "fits tightly", "no": "does not fit"}


def headline(prediction: Prediction) -> str:
    """Return a prediction in one line: fit, memory, time of a step, throughput and duration."""
    memory, capacity = prediction.memory.total, prediction.setting.device.memory
    return (
        f"{VERDICT[fit_of(prediction)]}: {gigabytes(memory)} of {gigabytes(capacity)} GB · "
        f"{readable_seconds(prediction.seconds.total)} a step · "
        f"{digits(prediction.tokens_per_second_per_gpu)} tokens/s/{unit(prediction)} · "
        f"{readable_days(prediction.days)}"
    )


def unit(prediction: Prediction) -> str:
    """Return the noun for one rank: "GPU", or "process" on a CPU."""
    return "GPU" if prediction.setting.device.is_gpu else "process"


def full_json(prediction: Prediction) -> dict[str, Any]:
    """Return the JSON values of `plan --json`: prediction, uncertainty, energy and emissions.

    `energy` is None if the device's watts are unknown.
    """
    spent = energy(prediction)
    return prediction.to_json() | {
        "uncertainty": uncertainty(prediction).to_json(),
        "energy": vars(spent) if spent else None,
    }


def prediction_tables(prediction: Prediction) -> Iterator[TextTable]:
    """Yield the tables of a prediction: memory, time, traffic (if any), throughput, uncertainty."""
    yield _memory(prediction)
    yield _time(prediction)
    if any(prediction.communication.values()):
        yield _communication(prediction)
    yield _run(prediction)
    yield _ranges(prediction)


def _memory(prediction: Prediction) -> TextTable:
    memory, capacity = prediction.memory, prediction.setting.device.memory
    rows = [
        (label, gigabytes(nbytes), percent(nbytes / capacity))
        for key, label in MEMORY_LABELS.items()
        if (nbytes := getattr(memory, key))
    ]
    rows.append(("peak", gigabytes(memory.total), percent(memory.total / capacity)))
    title = f"peak memory of one rank; the device has {gigabytes(capacity)} GB"
    return TextTable(title, ("", "GB", "fraction"), rows, "<>>", total=True)


def _time(prediction: Prediction) -> TextTable:
    seconds = prediction.seconds
    rows = [
        (label, readable_seconds(part), percent(part / seconds.total))
        for key, label in TIME_LABELS.items()
        if (part := getattr(seconds, key))
    ]
    rows.append(("a step", readable_seconds(seconds.total), ""))
    return TextTable(
        "time of a step on the slowest rank", ("", "", "fraction"), rows, "<>>", total=True
    )


def _communication(prediction: Prediction) -> TextTable:
    device, parallel = prediction.setting.device, prediction.setting.spec.parallel
    fsdp_ranks = parallel.fsdp_ranks
    if prediction.setting.sharding is not None:  # of all data ranks
        fsdp_ranks *= parallel.data_replicate
    sizes = parallel.mesh | {"dp_shard": fsdp_ranks}
    rows = [
        (
            axis,
            f"{sizes[axis]:,}",
            gigabytes(sent),
            link_name(device, sizes[axis], stride_of(axis, prediction)),
        )
        for axis, sent in prediction.communication.items()
        if sent
    ]
    head = ("axis", "ranks", "GB", "over")
    return TextTable("bytes that a rank sends per step", head, rows, "<>><")


def op_sections(step: StepTimeline, limit: int = 20) -> Iterator[TextTable]:
    """Yield a table of the regions, and one of the `limit` ops that take the most time."""
    seconds = step.prediction.seconds.total
    rows = [
        (
            f"{cost.region} {cost.direction}",
            f"{cost.count:,}",
            readable_seconds(cost.seconds),
            readable_seconds(cost.waits) if cost.waits else "",
            digits(cost.flops / 1e9),
            gigabytes(cost.nbytes),
            percent(cost.total / seconds),
        )
        for cost in regions(step)
    ]
    head = ("region", "runs", "each", "waits", "GFLOPs", "GB moved", "of a step")
    yield TextTable("regions on the slowest rank", head, rows, "<>>>>>>")
    costs = ops(step)
    rows = [
        (
            f"{cost.region} {cost.direction}",
            cost.op,
            cost.shape.rpartition(" ")[2],
            f"{cost.count:,}",
            readable_seconds(cost.seconds),
            digits(cost.flops / 1e9) if cost.flops else "",
            digits(cost.nbytes / 1e6),
            cost.bound,
            percent(cost.total / seconds),
        )
        for cost in costs[:limit]
    ]
    head = ("region", "op", "result", "runs", "each", "GFLOPs", "MB", "bound by", "of a step")
    rest = len(costs) - len(rows)
    note = (
        f"{rest} other ops take {percent(sum(o.total for o in costs[limit:]) / seconds)}."
        * bool(rest)
    )
    yield TextTable("slowest ops", head, rows, "<<<>>>><>", note=note)


def transfer_section(step: StepTimeline) -> TextTable:
    """Return a table of the transfers of a step, with bytes, group, link and time."""
    rows = [
        (
            cost.where,
            cost.kind,
            f"{cost.axis} {cost.ranks:,}",
            cost.link,
            digits(cost.nbytes / 1e6),
            f"{cost.count:,}",
            readable_seconds(cost.seconds),
            readable_seconds(cost.exposed) if cost.exposed else "",
        )
        for cost in transfer_costs(step)
    ]
    head = ("purpose", "collective", "ranks", "link", "MB sent", "runs", "each", "exposed")
    title = "communication of the slowest rank"
    if not rows:
        return TextTable(title, ("",), [("nothing",)], "<")
    return TextTable(title, head, rows, "<<<<>>>>")


def stride_of(axis: str, prediction: Prediction) -> int:
    """Return the difference of the global ranks of two neighbours on a mesh axis.

    It is 1 on `tp`, which is innermost.
    """
    stride = 1
    for name, size in reversed(prediction.setting.spec.parallel.mesh.items()):
        if name == axis:
            break
        stride *= size
    return stride


def link_name(device: Device, ranks: int, stride: int) -> str:
    """Return the slowest link that a group of ranks crosses: "within a node, 450 GB/s".

    ranks: size of the group. stride: difference of the global ranks of two of its neighbours.
    """
    where = link_of(device, ranks, stride)
    link = device.link if where == WITHIN else device.network
    return f"{where}, {digits(link.bandwidth / 1e9)} GB/s"


def _run(prediction: Prediction) -> TextTable:
    spec = prediction.setting.spec
    model = prediction.flops_per_token + prediction.attention_per_token
    hardware = prediction.hardware_flops / spec.batch.tokens
    peak = prediction.peak / 1e12
    rows = [
        (
            "tokens per second",
            digits(prediction.tokens_per_second_per_gpu * spec.parallel.ranks),
            "",
        ),
        (f"… per {unit(prediction)}", digits(prediction.tokens_per_second_per_gpu), ""),
        ("MFU", percent(prediction.mfu), f"{digits(model / 1e9)} GFLOPs per token: 6N + 12·L·d·s"),
        ("HFU", percent(prediction.hfu), f"{digits(hardware / 1e9)} GFLOPs per token, as executed"),
        (
            "steps",
            f"{spec.total_steps:,}",
            f"{quantity(spec.total_steps * spec.batch.tokens)} tokens",
        ),
        *_reference(prediction),
        ("days", digits(prediction.days), ""),
        (f"{unit(prediction)}-hours", digits(prediction.gpu_hours), ""),
    ]
    if spent := energy(prediction):
        watts = f"{prediction.setting.device.watts:g} W, PUE {PUE}, {CARBON} kg/kWh"
        rows.append(("MWh", digits(spent.megawatt_hours), watts))
        rows.append(("tonnes of CO2", digits(spent.tonnes), ""))
    note = (
        f"Peak: {digits(peak)} TFLOP/s. MFU as in PaLM: N parameters of matmuls, full attention.\n"
        "HFU: with recomputation, and only the unmasked half of causal attention."
    )
    return TextTable("throughput and duration", ("", "", ""), rows, "<><", note=note)


def _reference(prediction: Prediction) -> Iterator[tuple[str, str, str]]:
    """Yield the row of dpo's pass before the first step."""
    if seconds := prediction.reference_seconds:
        answers = prediction.setting.spec.total_steps * prediction.setting.spec.batch.sequences
        note = f"once, for {quantity(answers)} answers of one epoch and those held out"
        yield "scores of the reference", readable_seconds(seconds), note


def _ranges(prediction: Prediction) -> TextTable:
    """Return the table of 80 % intervals."""
    ranges = uncertainty(prediction)

    def between(ends: tuple[float, float] | None, show: Callable[[float], str]) -> str:
        return f"{show(ends[0])} – {show(ends[1])}" if ends else "unknown"

    margin = f"{gigabytes(abs(ranges.margin))} GB {'left' if ranges.margin >= 0 else 'lacking'}"
    rows = [
        (f"tokens/s/{unit(prediction)}", between(ranges.tokens_per_second, digits), ranges.regime),
        ("days", between(ranges.days, digits), ""),
        ("GB of a rank", between(ranges.memory, gigabytes), f"fits: {ranges.fit}, {margin}"),
    ]
    notes = {
        CALIBRATED_CPU: "speed: from settings measured on a CPU (benchmarks/plan_measured.py)",
        UNCALIBRATED: "CPUs differ, and this one was not measured. Measure it in a minute "
        "with `llamac plan --calibrate -o machine.toml`, then plan with --device machine.toml",
    }
    published = "from published runs that were left out of the fit (docs/plan.md)"
    note = notes.get(ranges.regime, published)
    return TextTable("80 % intervals", ("", "", ""), rows, "<><", note=note)


def digits(number: float, count: int = 3) -> str:
    """Format a number with at least `count` significant digits: 12,345; 137; 4.20.

    Below 0.001 it has two digits and an exponent: 4.2e-05.
    """
    if number >= 10 ** (count - 1) or number == 0:
        return f"{number:,.0f}"
    return f"{number:#.{count}g}".rstrip(".") if number >= 1e-3 else f"{number:.1e}"


def quantity(number: float) -> str:
    """Format a number of parameters or tokens: 70_000_000_000 as "70.0B"."""
    for suffix, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if number >= scale * 0.9995:
            return f"{digits(number / scale)}{suffix}"
    return f"{number:,.0f}"


def gigabytes(nbytes: float) -> str:
    """Format bytes in GB (10^9), without the unit: 1_234_000_000 as "1.23"."""
    return f"{nbytes / 1e9:,.2f}" if nbytes < 100e9 else digits(nbytes / 1e9)


def percent(share: float) -> str:
    """Format a fraction as a percentage: 0.5 as "50.0 %"."""
    return f"{100 * share:.1f} %"


def readable_seconds(seconds: float) -> str:
    """Format seconds in the largest of s, ms and µs that they reach: 0.012 as "12.0 ms"."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale or unit == "µs":
            return f"{digits(seconds / scale)} {unit}"
    raise AssertionError


def readable_days(days: float) -> str:
    """Format days in the largest of days, hours or minutes they reach: 0.5 as "12.0 hours"."""
    if days >= 1:
        return f"{digits(days)} days"
    return f"{digits(days * 24)} hours" if days * 24 >= 1 else f"{digits(days * 1440)} minutes"
