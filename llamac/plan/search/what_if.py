"""Sensitivity of a prediction to each figure of the device and to changes of the layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from llamac.ir.program import Program
from llamac.look.text_table import TextTable
from llamac.plan.device.device import Device, Link
from llamac.plan.predict import predict
from llamac.plan.prediction import Prediction
from llamac.plan.search.rank_layout import POLICIES, Layout, layout_of
from llamac.plan.setting import Setting
from llamac.spec import SpecError
from llamac.spec.validation.errors import join_options

STEP = 0.01
"""Relative change of a figure for its numerical derivative."""


@dataclass(frozen=True)
class Change:
    """A change of hardware, layout or batch, and its effect on tokens/s per GPU.

    Attributes:
        what: Description of the change.
        elasticity: Change of tokens/s in percent per percent of the device's figure; None for other
            changes.
        speedup: Factor on tokens/s if the figure doubles (latencies: halve), or with the change.
        fits: Whether the changed setting fits the device's memory.
    """

    what: str
    elasticity: float | None
    speedup: float
    fits: bool


def what_if(prediction: Prediction, program: Program) -> list[Change]:
    """Return the effects of changes of the device, the layout and the batch, fastest first.

    program: the prediction's compiled spec.
    """
    changes = [*_device_changes(prediction, program), *_layout_changes(prediction)]
    return sorted(changes, key=lambda change: -change.speedup)


def speedup_if_all_double(prediction: Prediction, program: Program) -> float:
    """Return the factor on tokens/s if all rates of the device double and its latencies halve.

    program: the prediction's compiled spec.
    """
    setting = prediction.setting
    device = setting.device
    for change in CHANGES.values():
        device = change(device, 2.0)
    return _speed_ratio(prediction, predict(replace(setting, device=device), program))


def _scale_bandwidth(link: Link, factor: float) -> Link:
    return replace(link, bandwidth=link.bandwidth * factor)


CHANGES: dict[str, Callable[[Device, float], Device]] = {
    "faster matmuls": lambda device, by: replace(
        device, peak={dtype: flops * by for dtype, flops in device.peak.items()}
    ),
    "more memory bandwidth": lambda device, by: replace(
        device, memory_bandwidth=device.memory_bandwidth * by
    ),
    "faster links within a node": lambda device, by: replace(
        device, link=_scale_bandwidth(device.link, by)
    ),
    "faster links between nodes": lambda device, by: replace(
        device, network=_scale_bandwidth(device.network, by)
    ),
    "shorter latencies": lambda device, by: replace(
        device,
        link=replace(device.link, latency=device.link.latency / by, hop=device.link.hop / by),
        network=replace(
            device.network,
            latency=device.network.latency / by,
            hop=device.network.hop / by,
            tree_hop=device.network.tree_hop / by,
        ),
    ),
}


def _device_changes(prediction: Prediction, program: Program) -> Iterator[Change]:
    setting = prediction.setting
    for what, change in CHANGES.items():
        nudged, doubled = (
            predict(replace(setting, device=change(setting.device, by)), program)
            for by in (1 + STEP, 2.0)
        )
        slope = (_speed_ratio(prediction, nudged) - 1) / STEP
        yield Change(what, slope, _speed_ratio(prediction, doubled), doubled.fits)


def _layout_changes(prediction: Prediction) -> Iterator[Change]:
    setting = prediction.setting
    spec, layout = setting.spec, layout_of(setting.spec)
    candidates: dict[str, dict[str, object]] = {
        f"micro-batches of {2 * layout.micro_batch}": {"micro_batch": 2 * layout.micro_batch},
        "half as many tensor-parallel ranks": {
            "tensor": layout.tensor // 2,
            "data_shard": 2 * layout.data_shard,
        },
        "twice as many tensor-parallel ranks": {
            "tensor": 2 * layout.tensor,
            "data_shard": layout.data_shard // 2,
        },
        "half as many pipeline ranks": {
            "pipeline": layout.pipeline // 2,
            "data_shard": 2 * layout.data_shard,
        },
    }
    if layout.checkpoint in POLICIES and layout.checkpoint != "none":
        less = POLICIES[POLICIES.index(layout.checkpoint) - 1]
        candidates[f"more memory: recompute.policy = {less}"] = {"checkpoint": less}
    for what, changes in candidates.items():
        other = _predict_layout(setting, replace(layout, **changes))  # type: ignore[arg-type]
        if other is not None:
            yield Change(what, None, _speed_ratio(prediction, other), other.fits)
    try:
        doubled = replace(setting, spec=spec.replace({"batch.sequences": 2 * spec.batch.sequences}))
    except SpecError:
        return
    other = predict(doubled)
    yield Change("a batch of twice the tokens", None, _speed_ratio(prediction, other), other.fits)


def _predict_layout(setting: Setting, layout: Layout) -> Prediction | None:
    """Return the prediction of a layout with the same number of ranks, or None."""
    if layout.ranks != setting.spec.parallel.ranks or 0 in (layout.tensor, layout.pipeline):
        return None
    try:
        spec = setting.spec.replace(layout.changes(setting.spec))
    except SpecError:
        return None
    return predict(replace(setting, spec=spec))


def _speed_ratio(current: Prediction, other: Prediction) -> float:
    return other.tokens_per_second_per_gpu / current.tokens_per_second_per_gpu


def advice(changes: Sequence[Change], target: float, all_doubled: float) -> Iterator[str]:
    """Yield sentences on how to reach `target` times the predicted speed, and the best changes.

    changes: from `what_if`, fastest first. all_doubled: from `speedup_if_all_double`.
    """
    best = [change for change in changes if change.speedup > 1.005][:3]
    sufficient = [change for change in changes if change.speedup >= target and change.fits]
    if sufficient:
        yield f"{target:g}x is reached by {join_options(change.what for change in sufficient)}"
    elif all_doubled < target * 0.995:
        yield (
            f"{target:g}x is out of reach: with every rate of the device twice as high it would "
            f"be {all_doubled:.2f}x"
        )
    else:
        yield (
            f"no single change makes it {target:g}x; every rate of the device twice as high would "
            f"bring {all_doubled:.2f}x"
        )
    for change in best:
        slope = (
            "" if change.elasticity is None else f" ({change.elasticity:.2f} % for each percent)"
        )
        much = "" if change.elasticity is None else ", twice as high,"
        misfit = "" if change.fits else ", but does not fit"
        yield f"{change.what}{much} would bring {change.speedup:.2f}x{slope}{misfit}"


def what_if_section(changes: Sequence[Change]) -> TextTable:
    """Return a table of the changes and their effects on tokens/s."""
    rows = [
        (
            change.what,
            "" if change.elasticity is None else f"{change.elasticity:.2f} %",
            f"{change.speedup:.2f}x",
            "" if change.fits else "does not fit",
        )
        for change in changes
    ]
    head = ("change", "for a percent of it", "twice as high, or changed", "")
    return TextTable("tokens/s over today's", head, rows, "<>><")
