"""`llamac inspect SPEC`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamac.cli.common.options import SetOption, SpecArgument, load, print_status
from llamac.cli.common.output import OverwriteFile, check_output, inputs_of, write_output

if TYPE_CHECKING:
    from llamac.look.text_table import Part
    from llamac.passes.analysis.timing import Rates
    from llamac.passes.pass_list import Stage
    from llamac.spec import Spec

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Format(StrEnum):
    """Output formats of `llamac inspect`."""

    text = "text"
    python = "python"
    json = "json"
    dot = "dot"
    svg = "svg"
    html = "html"


@app.command()
def inspect(
    spec: SpecArgument,
    after: Annotated[
        str | None, typer.Option(metavar="PASS", help="Program after this pass [the last]")
    ] = None,
    region: Annotated[
        str | None, typer.Option(metavar="NAME", help="One region: embed, block, head, …")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="Output format")] = Format.text,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="P Q", help="Changes between these two passes"),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Saved and recomputed values, in bytes")
    ] = False,
    schedule: Annotated[
        bool,
        typer.Option("--schedule", help="Estimated timeline of computation and transfers"),
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="OTHER",
            help="Another spec, or a layout such as tp4,pp2, to show beside it in the html page",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="File to write [standard output]"),
    ] = None,
    overwrite: OverwriteFile = False,
    overrides: SetOption = None,
) -> None:
    """Show SPEC's program after a pass: IR, Python, drawing, memory, schedule or changes."""
    _refuse(form, diff, memory, schedule, after, region)
    if compare is not None and form != Format.html:
        raise typer.BadParameter("it needs --format html", param_hint="--compare")
    loaded = load(spec, overrides)
    other, inputs = None, inputs_of(loaded)
    if compare is not None:
        from llamac.cli.explorer import compared_spec

        other = compared_spec(loaded, compare, overrides)
        inputs += inputs_of(other.spec)
    if output is not None:
        check_output(output, inputs, overwrite)

    print_status(f"compiling {loaded.name} …")

    from llamac.passes.pass_list import NAMES, stages

    for option, name in (("--after", after), *(("--diff", name) for name in diff or ())):
        if name is not None and name not in NAMES:
            raise typer.BadParameter(
                f"{name!r} is not one of {', '.join(NAMES)}", param_hint=option
            )
    if diff and NAMES.index(diff[0]) > NAMES.index(diff[1]):
        raise typer.BadParameter(
            f"{diff[0]} runs after {diff[1]}; write --diff {diff[1]} {diff[0]}", param_hint="--diff"
        )
    made = list(stages(loaded, stop_after=diff[1] if diff else after or ""))
    shown = [stage for stage in made if stage.name in diff] if diff else made[-1:]
    _known_region(region, shown)
    found: str | list[Part]
    if diff:
        by_name = {stage.name: stage for stage in made}
        found = _diff(by_name[diff[0]], by_name[diff[1]], form, region)
    elif memory:
        found = _memory(made[-1], form, region)
    elif schedule:
        found = _schedule(made[-1], form, region, _rates(loaded))
    elif form == Format.html:
        from llamac.cli.explorer import explorer

        found = explorer(loaded, made, other)
    else:
        found = _render(made[-1], form, region)
    if output is None:
        _print(found, is_diff=bool(diff) and form == Format.text)
        return
    from llamac.look.text_table import plain_text

    write_output(output, found if isinstance(found, str) else plain_text(found), inputs, overwrite)
    print(f"wrote {output}")


def _print(found: str | list[Part], is_diff: bool) -> None:
    from llamac.look.console import show, show_marked

    if not isinstance(found, str):
        show(*found)
    elif is_diff:
        from llamac.inspect.diff import DIFF_STYLES

        show_marked(found.rstrip("\n"), DIFF_STYLES)
    else:
        print(found, end="")


def _refuse(
    form: Format,
    diff: tuple[str, str] | None,
    memory: bool,
    schedule: bool,
    after: str | None,
    region: str | None,
) -> None:
    """Raise typer.BadParameter for options that exclude each other."""
    if diff and memory:
        raise typer.BadParameter("it cannot be combined with --memory", param_hint="--diff")
    if diff and after:
        raise typer.BadParameter("it names both passes; leave out --after", param_hint="--diff")
    what = "--diff" if diff else "--memory" if memory else ""
    if what and form not in (Format.text, Format.json):
        raise typer.BadParameter(
            f"{what} can be written as text or json, not as {form}", param_hint="--format"
        )
    if schedule and (diff or memory):
        other = "--diff" if diff else "--memory"
        raise typer.BadParameter(f"it cannot be combined with {other}", param_hint="--schedule")
    if schedule and form not in (Format.text, Format.json, Format.svg):
        raise typer.BadParameter(
            f"--schedule can be written as text, json or svg, not as {form}",
            param_hint="--format",
        )
    if form == Format.html and region:
        raise typer.BadParameter(
            "the html page shows all regions; leave it out, or use --format svg",
            param_hint="--region",
        )


def _known_region(region: str | None, shown: list[Stage]) -> None:
    names = list(dict.fromkeys(name for stage in shown for name in stage.program.regions))
    if region is not None and region not in names:
        places = " or ".join(stage.name for stage in shown)
        raise typer.BadParameter(
            f"{region!r} does not exist after {places}; known: {', '.join(names)}",
            param_hint="--region",
        )


def _diff(before: Stage, after: Stage, form: Format, region: str | None) -> str:
    from llamac.inspect.diff import diff_json, diff_text
    from llamac.inspect.program_json import dump

    names = (before.name, after.name)
    if form == Format.json:
        return dump(diff_json(before.program, after.program, names, region))
    return diff_text(before.program, after.program, names, region)


def _memory(stage: Stage, form: Format, region: str | None) -> str | list[Part]:
    from llamac.inspect.program_json import dump
    from llamac.inspect.report import memory_json, memory_tables

    trained = [r.name for r in stage.program.regions.values() if r.backward is not None]
    if not trained:
        raise typer.BadParameter(
            f"after {stage.name} there is no backward pass yet, so nothing is saved for it; use "
            "--after differentiate or checkpoint",
            param_hint="--memory",
        )
    if region is not None and region not in trained:
        raise typer.BadParameter(
            f"{region} is for inference and saves nothing; use one of {', '.join(trained)}",
            param_hint="--region",
        )
    if form == Format.json:
        return dump(memory_json(stage.program, stage.name, region))
    return [*memory_tables(stage.program, stage.name, region)]


def _rates(spec: Spec) -> Rates:
    """Return the rates of the spec's hardware.gpu, or of an A100."""
    from llamac.passes.analysis.timing import A100, Rates

    if spec.hardware.gpu is None:
        return A100
    from llamac.plan.target import device_for

    device = device_for(spec)
    attained, peak = device.efficiency, device.flops(spec.precision.compute)
    memory = device.memory_bandwidth * attained.memory
    return Rates(device.title, peak * attained.matmul, memory, device.link.bandwidth)


def _schedule(stage: Stage, form: Format, region: str | None, rates: Rates) -> str | list[Part]:
    if form == Format.svg:
        from llamac.inspect.drawing.lanes import schedule_svg

        return schedule_svg(stage.program, stage.name, region, rates)
    from llamac.inspect.schedule import schedule_json, schedule_parts

    if form == Format.json:
        from llamac.inspect.program_json import dump

        return dump(schedule_json(stage.program, stage.name, region, rates))
    return [*schedule_parts(stage.program, stage.name, region, rates)]


def _render(stage: Stage, form: Format, region: str | None) -> str:
    name, program = stage.name, stage.program
    match form:
        case Format.text:
            from llamac.ir.printer import print_program, print_region

            return (
                print_region(program.regions[region]) + "\n" if region else print_program(program)
            )
        case Format.python:
            from llamac.inspect.source import stage_source

            return stage_source(program, name, region)
        case Format.json:
            from llamac.inspect.program_json import dump, program_json

            return dump(program_json(program, name, region))
        case Format.dot:
            from llamac.inspect.graphviz import program_dot

            return program_dot(program, name, region)
        case Format.svg:
            from llamac.inspect.drawing.svg import program_svg

            return program_svg(program, name, region)
    raise AssertionError(form)
