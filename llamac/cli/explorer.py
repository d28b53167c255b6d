"""The page of `llamac inspect --format html`, of one spec or of two beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from llamac.cli.common import load, print_status
from llamac.cli.foresight import planned_device

if TYPE_CHECKING:
    from llamac.inspect.explorer.side import CompiledSpec
    from llamac.passes.pipeline import Stage
    from llamac.plan.prediction import Prediction
    from llamac.spec import Spec


def explorer(
    spec: Spec, stages: Sequence[Stage], other: str | None, overrides: Sequence[str] | None
) -> str:
    """Return the page. stages: of `spec`. other: a spec to compare with, or a layout."""
    from llamac.inspect.explorer.explorer_page import explorer_page

    if other is None:
        return explorer_page([_side(spec, stages, spec.name)[0]])
    second, titles = _other(spec, other, overrides)
    print_status(f"compiling {titles[1]} …")
    from llamac.passes.pipeline import stages as compile_stages

    made = list(compile_stages(second, stop_after=stages[-1].name))
    pairs = [_side(spec, stages, titles[0]), _side(second, made, titles[1])]
    predictions = [prediction for _, prediction in pairs if prediction is not None]
    sides = [side for side, _ in pairs]
    plans = _comparison(titles, *predictions) if len(predictions) == 2 else None
    return explorer_page(sides, plans)


def _other(spec: Spec, other: str, overrides: Sequence[str] | None) -> tuple[Spec, tuple[str, str]]:
    """Return the spec to compare with, and titles of both."""
    from llamac.plan.search.rank_layout import layout_of, parse_layout
    from llamac.plan.target import LayoutError
    from llamac.resources import find_spec

    if find_spec(other).is_file():
        second = load(other, overrides)
        same = second.name == spec.name
        return second, (f"{spec.name} (A)", f"{second.name} (B)") if same else (
            spec.name,
            second.name,
        )
    try:
        layout = parse_layout(other, spec, spec.parallel.ranks)
    except LayoutError as error:
        raise typer.BadParameter(
            f"there is no spec {other!r}, and it is no layout of {spec.name}: {error}",
            param_hint="--compare",
        ) from None
    second = spec.replace(layout.changes(spec))
    return second, (str(layout_of(spec)), str(layout_of(second)))


def _side(
    spec: Spec, stages: Sequence[Stage], title: str
) -> tuple[CompiledSpec, Prediction | None]:
    """Return one side, with a plan of its step if all passes ran."""
    from llamac.inspect.explorer.side import CompiledSpec
    from llamac.passes.pipeline import NAMES
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
    """Return what differs between two plans, as JSON values."""
    from llamac.plan.search.compare import reasons, term_differences, verdict
    from llamac.plan.search.layout import layout_of

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
