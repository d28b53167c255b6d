"""`llamac train SPEC`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from llamac.cli.common import SetOption, SpecArgument, load

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def train(
    spec: SpecArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="RUN", help="Run directory [runs/<name>]"),
    ] = None,
    overrides: SetOption = None,
    resume: Annotated[
        str, typer.Option(metavar="auto|never|PATH", help="Which checkpoint to go on from")
    ] = "auto",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this step; the schedule stays as it is")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Give up edits made to emitted files")
    ] = False,
) -> None:
    """Build SPEC into a run directory and train it there; an interrupted run goes on."""
    loaded = load(spec, overrides)

    from llamac.emit.run import bring_up_to_date

    run = output or Path("runs") / loaded.name
    bring_up_to_date(run, loaded, overwrite)
    command = [sys.executable, str(run / "train.py"), "--resume", resume]
    if steps is not None:
        command += ["--steps", str(steps)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)  # the trainer takes this process over: signals, exit code
