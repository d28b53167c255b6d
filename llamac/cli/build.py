"""`llamac build SPEC`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamac.cli.common.options import SetOption, SpecArgument, load, print_status
from llamac.cli.preflight.plan_note import plan_json

if TYPE_CHECKING:
    from llamac.passes.pass_list import Stage

app = typer.Typer(add_completion=False, rich_markup_mode=None)

OutputOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Directory to write [build/<name>]"),
]
PrintAfterOption = Annotated[
    str | None,
    typer.Option("--print-after", metavar="PASS|all", help="Print the IR as this pass left it"),
]
StopAfterOption = Annotated[
    str | None,
    typer.Option(
        "--stop-after", metavar="PASS", help="Print the IR after this pass, and write nothing"
    ),
]
DisableOption = Annotated[
    list[str] | None, typer.Option("--disable", metavar="PASS", help="Disable a pass")
]
TimeOption = Annotated[bool, typer.Option("--time-passes", help="Print the time of each pass")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Discard edits made to emitted files")
]


@app.command()
def build(
    spec: SpecArgument,
    output: OutputOption = None,
    overrides: SetOption = None,
    print_after: PrintAfterOption = None,
    stop_after: StopAfterOption = None,
    disable: DisableOption = None,
    time_passes: TimeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Compile SPEC into a directory of readable Python that trains it, without llamac."""
    loaded = load(spec, overrides)
    directory = output or Path("build") / loaded.name
    print_status(
        f"compiling {loaded.name} …" if stop_after else f"building {loaded.name} into {directory} …"
    )

    from llamac.emit.build import files_of, write_directory
    from llamac.ir.printer import print_program
    from llamac.passes.pass_list import NAMES, OPTIONAL, stages

    _require_known("--print-after", print_after, (*NAMES, "all"))
    _require_known("--stop-after", stop_after, NAMES)
    for name in disable or ():
        _require_known("--disable", name, OPTIONAL)

    made = list(stages(loaded, disable or (), stop_after or ""))
    for stage in made:
        if print_after in (stage.name, "all"):
            print(f"# after {stage.name}\n{print_program(stage.program)}")
    if time_passes:
        _print_times(made)
    if stop_after is not None:
        if print_after not in (stop_after, "all"):
            print(print_program(made[-1].program), end="")
        return
    for note in write_directory(
        directory, files_of(loaded, made, partial(plan_json, loaded)), overwrite
    ):
        print_status(note)
    for note in made[-1].program.notes:
        print(note)
    print(f"{directory}: {made[-1].program.parameter_count:,} parameters; train it with")
    one = loaded.parallel.ranks == 1
    print(f"  {f'python {directory}/train.py' if one else f'{directory}/launch/local.sh'}")


def _require_known(option: str, name: str | None, names: tuple[str, ...]) -> None:
    if name is not None and name not in names:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(names)}", param_hint=option)


def _print_times(made: list[Stage]) -> None:
    print(f"{'pass':<16}{'ms':>8}{'verify ms':>12}")
    for stage in made:
        print(f"{stage.name:<16}{stage.seconds * 1e3:>8.1f}{stage.verifying * 1e3:>12.1f}")
