"""`llamac launch SPEC`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from llamac.cli.common.options import SetOption, SpecArgument, load, print_status
from llamac.cli.common.output import inputs_of, write_output
from llamac.cli.preflight.plan_note import plan_json

app = typer.Typer(add_completion=False, rich_markup_mode=None)

BackendName = Literal["local", "slurm", "kubernetes", "skypilot"]


@app.command()
def launch(
    spec: SpecArgument,
    backend: Annotated[BackendName, typer.Option(help="Where to start the run")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="RUN",
            help="Run directory [runs/<name>]; with --render, the file to write [standard output]",
        ),
    ] = None,
    overrides: SetOption = None,
    render: Annotated[
        bool, typer.Option("--render", help="Print the launch file without starting anything")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Discard edits to emitted files; with --render, replace FILE"
        ),
    ] = False,
) -> None:
    """Build SPEC into a run directory and start it, locally or on a cluster with its own tool."""
    loaded = load(spec, overrides)

    from llamac.launch.backends import find_tool, require_backend, start_run

    chosen = require_backend(backend, loaded)
    if render:
        from llamac.emit.trainer import render_trainer

        text = render_trainer(loaded)[chosen.file]
        if output is None:
            print(text, end="")
        else:
            write_output(output, text, inputs_of(loaded), overwrite)
            print(f"wrote {output}")
        return

    find_tool(backend, loaded)  # before anything is built
    run = output or Path("runs") / loaded.name
    print_status(f"building {loaded.name} into {run} …")

    from llamac.emit.run_directory import update_run_directory

    for word in update_run_directory(run, loaded, overwrite, partial(plan_json, loaded)):
        print_status(word)
    sys.stdout.flush()
    raise typer.Exit(start_run(backend, loaded, run))
