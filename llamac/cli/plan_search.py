"""`llamac plan --search`, `--why` and `--compute`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llamac.cli.common.output import check_output, write_output

if TYPE_CHECKING:
    from llamac.plan.prediction import Prediction
    from llamac.plan.setting import Setting


@dataclass(frozen=True)
class Target:
    """Destination of the spec of the fastest layout, which extends `base`.

    output: path of the spec; None writes none. base: SPEC of the command line.
    overrides: values of --set.
    inputs: files that must not be overwritten. overwrite: whether a file that llamac did not write
    may be replaced.
    """

    output: Path | None
    base: str
    overrides: Sequence[str]
    inputs: Sequence[str | Path]
    overwrite: bool


def print_search(setting: Setting, gpus: int, top: int, as_json: bool, target: Target) -> None:
    """Print the fastest layouts on a number of GPUs, and write a spec of the first to `target`.

    top: number of layouts to print. as_json: print the result of the search as JSON instead.
    Raises LayoutError if no layout is legal or fits.
    """
    from llamac.plan.search.search import search
    from llamac.plan.search.winner import search_json, search_summary, winner_toml, winners_table

    print(f"searching the layouts of {setting.spec.name} on {gpus:,} GPUs …", file=sys.stderr)
    found = search(setting, gpus, top, progress=_progress())
    output = target.output
    if output is not None:
        toml = winner_toml(found, target.base, target.overrides, output)
        write_output(output, toml, target.inputs, target.overwrite)
    if as_json:
        print(json.dumps(search_json(found), indent=2))
        return

    from llamac.look.console import show

    show(*search_summary(found), winners_table(found))
    if output is not None:
        print(f"wrote {output}: {found.best[0].layout}")


def _progress() -> Callable[[int, int, int], None]:
    """Return a callback that shows a search's progress on one line of a terminal's stderr."""
    from llamac.runtime.terminal import supports_escapes

    if not supports_escapes(sys.stderr):
        return lambda done, whole, timed: None

    def say(done: int, whole: int, timed: int) -> None:
        end = "\n" if done == whole else ""
        text = f"\r{done} of {whole} shapes explored, {timed:,} layouts timed"
        print(text, end=end, file=sys.stderr, flush=True)

    return say


def print_advice(setting: Setting, target: str, as_json: bool) -> None:
    """Print a prediction, changes of hardware or layout that reach a speed-up, and their effects.

    setting: the run to change. target: the speed-up, such as `2x`. as_json: print only the effect
    of each change, as JSON.
    Raises typer.BadParameter if `target` is not a factor above 1.
    """
    number = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*[x×]?", target.strip().lower())
    if number is None or float(number[1]) <= 1:
        message = f"{target!r} must be a factor above 1, such as 2x"
        raise typer.BadParameter(message, param_hint="--why-not")

    from llamac.plan.predict import predict
    from llamac.plan.search.what_if import advice, speedup_if_all_double, what_if, what_if_section

    program = setting.compile()
    prediction = predict(setting, program)
    changes = what_if(prediction, program)
    if as_json:
        print(json.dumps([vars(one) for one in changes], indent=2))
        return

    from llamac.look.console import show
    from llamac.plan.render.prediction_tables import headline

    lines = [
        headline(prediction),
        *advice(changes, float(number[1]), speedup_if_all_double(prediction, program)),
    ]
    show(*lines, what_if_section(changes))


def print_comparison(setting: Setting, gpus: int, names: tuple[str, str], as_json: bool) -> None:
    """Print which of two layouts is faster and why; with `as_json`, only both predictions.

    setting: model and device. gpus: number of GPUs. names: layouts such as `tp8,pp4`, or rows,
    from 1, of the table that `print_search` prints.
    Raises LayoutError for a row that does not exist or a layout that is not legal.
    """
    from llamac.plan.search.compare import reasons, term_differences, verdict

    pair = _pair(setting, gpus, names)
    if as_json:
        print(json.dumps({key: one.to_json() for key, one in zip("AB", pair, strict=True)}))
        return

    from llamac.look.console import show

    show(verdict(*pair), *term_differences(*pair), "", *reasons(*pair))


def _pair(setting: Setting, gpus: int, names: tuple[str, str]) -> list[Prediction]:
    from llamac.plan.predict import predict
    from llamac.plan.search.rank_layout import parse_layout
    from llamac.plan.target import LayoutError
    from llamac.spec import SpecError

    ranks = [int(name) for name in names if name.isdecimal()]
    best = []
    if ranks:
        if min(ranks) < 1:
            raise LayoutError("--why 0: rows of a search are numbered from 1")

        from llamac.plan.search.search import search

        best = search(setting, gpus, max(ranks)).best
        if len(best) < max(ranks):
            raise LayoutError(f"--why {max(ranks)}: the search found {len(best)} layouts")
    pair = []
    for name in names:
        if name.isdecimal():
            pair.append(best[int(name) - 1].prediction)
        else:
            changes = parse_layout(name, setting.spec, gpus).changes(setting.spec)
            try:
                spec = setting.spec.replace(changes)
            except SpecError as error:
                said = "; ".join(f"{one.message} ({one.help})" for one in error.diagnostics)
                raise LayoutError(f"layout {name!r}: {said}") from error
            pair.append(predict(replace(setting, spec=spec)))
    return pair


def print_sizing(
    compute: str | None,
    gpu_days: float | None,
    device: str | None,
    choice: str,
    overrides: Sequence[str],
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print the best models for a compute budget, and write the chosen one as a spec.

    compute: FLOPs such as `1e22`; None takes `gpu_days` on the device instead.
    device: name or file; None is an A100 with 80 GB. choice: scaling law of the model that is
    written to `output`; None writes none. overrides: values of --set for that spec. overwrite:
    whether a file that llamac did not write may be replaced. as_json: print JSON instead of tables.
    """
    if output is not None:
        check_output(output, (), overwrite)

    from llamac.look.console import show
    from llamac.plan.device.device import load_device
    from llamac.plan.sizing.scaling_laws import flops_of, parse_flops
    from llamac.plan.sizing.sized_spec import (
        ComputeBudget,
        budget_heading,
        budget_json,
        budget_tables,
        find_optimum,
        sized_toml,
    )

    on = load_device(device or "a100-80gb")
    flops = parse_flops(compute) if compute is not None else flops_of(gpu_days or 0.0, on)
    budget = ComputeBudget(flops, on)
    if output is not None:
        best = find_optimum(budget, choice)
        text, shape = sized_toml(best, budget, overrides, output)
        write_output(output, text, (), overwrite)
    if as_json:
        print(json.dumps(budget_json(budget), indent=2))
        return
    show(budget_heading(budget), *budget_tables(budget))
    if output is not None:
        print(f"\nwrote {output}: {shape.n_layers} layers of {shape.dim:,}, ", end="")
        print(f"{shape.parameters:,} parameters, {best.name}")


SHOWS_A_STEP = ("--ops", "--collectives", "--trace", "--picture")
OF_A_RUN = ("SPEC", "--gpus", "--sharding", "--framework")
CHOOSING, SIZING = ("--search", "--why", "--why-not"), ("--compute", "--gpu-days")
WITHOUT_EFFECT = {
    **dict.fromkeys(CHOOSING, SHOWS_A_STEP),
    **dict.fromkeys(SIZING, (*SHOWS_A_STEP, *OF_A_RUN)),
    "--calibrate": (*SHOWS_A_STEP, *OF_A_RUN, "--json", "--device", "--set"),
}
"""Options of `llamac plan` that have no effect, by the flag that chooses what the command does."""


def check(forms: Mapping[str, object], options: Mapping[str, object]) -> None:
    """Raise typer.BadParameter for a conflict among the flags of `llamac plan`.

    That is two flags that each choose what the command does, an option that has no effect with the
    one given, or a --picture that is neither .svg nor .png.

    forms: values of the flags that choose what the command does, such as --search, by flag.
    options: values of the other flags. None and False mean not given.
    """
    flags = [flag for flag, value in forms.items() if value not in (None, False)]
    if len(flags) > 1:
        raise typer.BadParameter(f"{' and '.join(flags)} are mutually exclusive")
    form = flags[0] if flags else ""
    given = [flag for flag, value in options.items() if value not in (None, False)]
    writes = {"-o", "--trace", "--picture"} & set(given) or form == "--calibrate"
    sizes = form in SIZING and "-o" in given
    idle = [*WITHOUT_EFFECT.get(form, ()), *([] if form == "--search" else ["--top"])]
    idle += [] if sizes else ["--choose"]
    idle += [] if writes else ["--overwrite"]
    if unused := [flag for flag in idle if flag in given]:
        where = f"with {form}" if form else "here"
        raise typer.BadParameter(f"{' and '.join(unused)} has no effect {where}")
    if "-o" in given and form not in ("--search", "--calibrate", *SIZING):
        ways = "--calibrate, --search, --compute or --gpu-days"
        raise typer.BadParameter(f"it has no effect without {ways}", param_hint="-o")
    picture = options["--picture"]
    if isinstance(picture, Path) and picture.suffix.lower() not in (".svg", ".png"):
        raise typer.BadParameter(f"{picture} ends in neither .svg nor .png", param_hint="--picture")
