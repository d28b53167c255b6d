"""`llamac generate RUN`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory of `llamac train`")],
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="Text to continue; - reads standard input")
    ],
    tokens: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many (eval.sample_tokens)")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="0: the likeliest (eval.temperature)")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Share of the likeliest (eval.top_p)")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Of the draws (seed)")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="STEP|PATH", help="Which weights (newest whole ones)")
    ] = None,
) -> None:
    """Continue a text with what a run has learnt, by the model and code that it trains with.

    Defaults are the run's own, from the keys of its spec in brackets.
    """
    program = _program_of(run)
    given = {
        "prompt": prompt,
        "tokens": tokens,
        "temperature": temperature,
        "top-p": top_p,
        "seed": seed,
        "checkpoint": checkpoint,
    }
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, str(program), *options])


def _program_of(run: Path) -> Path:
    """Return RUN's generate.py if llamac wrote it: no other directory's code is run."""
    program = run.absolute() / "generate.py"
    if program.is_file() and (run / "MANIFEST.json").is_file():
        return program
    if not run.exists():
        known = Path("runs") / run
        hint = f"did you mean {known}?" if known.is_dir() else "`llamac train` makes them"
        problem = f"there is no run directory {run}; {hint}"
    elif (run / "checkpoints").is_dir():
        problem = (
            f"{run} holds a run but not the trainer that wrote it; use that one: "
            f"python TRAINER/generate.py --run {run}"
        )
    else:
        problem = f"{run} is not a run directory; `llamac train` makes them"
    raise typer.BadParameter(problem, param_hint="RUN")
