"""Sensitivity of a prediction: its derivative by each figure of the machine and layout."""

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
"""Relative change by which a derivative is taken."""


@dataclass(frozen=True)
class Change:
    """A change of hardware or layout, and its effect.

    Attributes:
        what: Description.
        elasticity: Change of tokens/s in percent per percent; None for a change of layout.
        doubled: Speed-up when the figure doubles, or the layout changes.
        fits: The changed setting fits.
    """

    what: str
    elasticity: float | None
    doubled: float
    fits: bool


def what_if(prediction: Prediction, program: Program) -> list[Change]:
    """Return changes of the device and of the layout, best first."""
    found = [*_device_changes(prediction, program), *_layout_changes(prediction)]
    return sorted(found, key=lambda one: -one.doubled)


def speedup_if_all_double(prediction: Prediction, program: Program) -> float:
    """Return the speed-up if all figures of the device double."""
    setting = prediction.setting
    device = setting.device
    for change in CHANGES.values():
        device = change(device, 2.0)
    return _times(prediction, predict(replace(setting, device=device), program))


def _scaled(link: Link, factor: float) -> Link:
    return replace(link, bandwidth=link.bandwidth * factor)


CHANGES: dict[str, Callable[[Device, float], Device]] = {
    "faster matmuls": lambda device, by: replace(
        device, peak={dtype: flops * by for dtype, flops in device.peak.items()}
    ),
    "more memory bandwidth": lambda device, by: replace(
        device, memory_bandwidth=device.memory_bandwidth * by
    ),
    "faster links within a node": lambda device, by: replace(device, link=_scaled(device.link, by)),
    "faster links between nodes": lambda device, by: replace(
        device, network=_scaled(device.network, by)
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
        little, twice = (
            predict(replace(setting, device=change(setting.device, by)), program)
            for by in (1 + STEP, 2.0)
        )
        slope = (_times(prediction, little) - 1) / STEP
        yield Change(what, slope, _times(prediction, twice), twice.fits)


def _layout_changes(prediction: Prediction) -> Iterator[Change]:
    setting = prediction.setting
    spec, layout = setting.spec, layout_of(setting.spec)
    tried: dict[str, dict[str, object]] = {
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
        tried[f"more memory: recompute.policy = {less}"] = {"checkpoint": less}
    for what, changes in tried.items():
        other = _tried(setting, replace(layout, **changes))  # type: ignore[arg-type]
        if other is not None:
            yield Change(what, None, _times(prediction, other), other.fits)
    try:
        doubled = replace(setting, spec=spec.replace({"batch.sequences": 2 * spec.batch.sequences}))
    except SpecError:
        return
    other = predict(doubled)
    yield Change("a batch of twice the tokens", None, _times(prediction, other), other.fits)


def _tried(setting: Setting, layout: Layout) -> Prediction | None:
    """Return the prediction of a layout with the same number of ranks, or None."""
    if layout.ranks != setting.spec.parallel.ranks or 0 in (layout.tensor, layout.pipeline):
        return None
    try:
        spec = setting.spec.replace(layout.changes(setting.spec))
    except SpecError:
        return None
    return predict(replace(setting, spec=spec))


def _times(today: Prediction, other: Prediction) -> float:
    return other.tokens_per_second_per_gpu / today.tokens_per_second_per_gpu


def advice(changes: Sequence[Change], wanted: float, all_doubled: float) -> Iterator[str]:
    """Yield advice on how to reach `wanted` times the plan's speed."""
    best = [one for one in changes if one.doubled > 1.005][:3]
    reaching = [one for one in changes if one.doubled >= wanted and one.fits]
    if reaching:
        yield f"{wanted:g}x is reached by {join_options(one.what for one in reaching)}"
    elif all_doubled < wanted * 0.995:
        yield (
            f"{wanted:g}x is out of reach: with every rate of the device twice as high it would "
            f"be {all_doubled:.2f}x"
        )
    else:
        yield (
            f"no single change makes it {wanted:g}x; every rate of the device twice as high would "
            f"bring {all_doubled:.2f}x"
        )
    for one in best:
        slope = "" if one.elasticity is None else f" ({one.elasticity:.2f} % for each percent)"
        much = "" if one.elasticity is None else ", twice as high,"
        beyond = "" if one.fits else ", but does not fit"
        yield f"{one.what}{much} would bring {one.doubled:.2f}x{slope}{beyond}"


def what_if_section(changes: Sequence[Change]) -> TextTable:
    """Return the table of the effects of each change of hardware or layout."""
    rows = [
        (
            one.what,
            "" if one.elasticity is None else f"{one.elasticity:.2f} %",
            f"{one.doubled:.2f}x",
            "" if one.fits else "does not fit",
        )
        for one in changes
    ]
    head = ("change", "for a percent of it", "twice as high, or changed", "")
    return TextTable("tokens/s over today's", head, rows, "<>><")
