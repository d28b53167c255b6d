"""The page of `llamac inspect --format html`, for one spec or for two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from llamac.cli.common.options import load, print_status
from llamac.cli.preflight.plan_note import planned_device

if TYPE_CHECKING:
    from llamac.inspect.explorer.side import CompiledSpec
    from llamac.passes.pass_list import Stage
    from llamac.plan.prediction import Prediction
    from llamac.spec import Spec


@dataclass(frozen=True)
class ComparedSpec:
    """A second spec, which the explorer shows beside the first.

    titles: titles of the first and the second spec in the page.
    """

    spec: Spec
    titles: tuple[str, str]


def compared_spec(spec: Spec, other: str, overrides: Sequence[str] | None) -> ComparedSpec:
    """Return what `--compare` names: another spec, or this one in another layout.

    other: value of --compare: a spec file, a shipped spec or a layout such as `tp8,dp2`.
    overrides: values of --set, which apply to a second spec file too.
    Raises SpecError for an invalid spec, and typer.BadParameter if `other` is neither.
    """
    from llamac.plan.search.rank_layout import layout_of, parse_layout
    from llamac.plan.target import LayoutError
    from llamac.resources import find_spec

    if find_spec(other).is_file():
        second = load(other, overrides)
        titles = spec.name, second.name
        same = second.name == spec.name
        return ComparedSpec(second, (f"{titles[0]} (A)", f"{titles[1]} (B)") if same else titles)
    try:
        layout = parse_layout(other, spec, spec.parallel.ranks)
    except LayoutError as error:
        raise typer.BadParameter(
            f"{other!r} is neither a spec nor a layout of {spec.name}: {error}",
            param_hint="--compare",
        ) from None
    second = spec.replace(layout.changes(spec))
    return ComparedSpec(second, (str(layout_of(spec)), str(layout_of(second))))


def explorer(spec: Spec, stages: Sequence[Stage], other: ComparedSpec | None) -> str:
    """Return the HTML page of the compile explorer for a spec.

    stages: the Program after each pass for `spec`. other: a spec to compile up to the same pass and
    show beside it, or None.
    """
    from llamac.inspect.explorer.explorer_page import explorer_page
    from llamac.passes.pass_list import stages as compile_stages

    if other is None:
        return explorer_page([_side(spec, stages, spec.name)[0]])
    print_status(f"compiling {other.titles[1]} …")
    made = list(compile_stages(other.spec, stop_after=stages[-1].name))
    pairs = [_side(spec, stages, other.titles[0]), _side(other.spec, made, other.titles[1])]
    predictions = [prediction for _, prediction in pairs if prediction is not None]
    sides = [side for side, _ in pairs]
    plans = _comparison(other.titles, *predictions) if len(predictions) == 2 else None
    return explorer_page(sides, plans)


def _side(
    spec: Spec, stages: Sequence[Stage], title: str
) -> tuple[CompiledSpec, Prediction | None]:
    """Return one compiled spec, with the prediction of its step if all passes ran."""
    from llamac.inspect.explorer.side import CompiledSpec
    from llamac.passes.pass_list import NAMES
    from llamac.plan.predict import predict
    from llamac.plan.render.step_data import step_data
    from llamac.plan.target import setting_for
    from llamac.plan.timeline.step import StepTimeline

    if stages[-1].name != NAMES[-1]:
        return CompiledSpec(title, spec, stages), None
    program = stages[-1].program
    prediction = predict(setting_for(spec, planned_device(spec)), program)
    step = step_data(StepTimeline(prediction, program))
    return CompiledSpec(title, spec, stages, step), prediction


def _comparison(titles: tuple[str, str], first: Prediction, second: Prediction) -> dict[str, Any]:
    """Return the differences between two predictions as JSON values."""
    from llamac.plan.search.compare import reasons, term_differences, verdict
    from llamac.plan.search.rank_layout import layout_of

    pair = first, second
    layouts = tuple(str(layout_of(one.setting.spec)) for one in pair)
    lines = [
        f"{title}: {one.seconds.total:.3g} s for a step of {one.setting.tokens:,} tokens, "
        f"{one.tokens_per_second_per_gpu:,.0f} tokens/s/GPU, MFU {one.mfu:.1%}"
        for title, one in zip(titles, pair, strict=True)
    ]
    return {
        "verdict": [verdict(first, second)] if layouts == titles else lines,
        "reasons": list(reasons(first, second)),
        "tables": [
            {"title": one.title, "head": list(one.head), "rows": [list(row) for row in one.rows]}
            for one in term_differences(first, second)
        ],
    }
