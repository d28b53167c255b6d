"""`llamac data prepare|stats|epochs|where SPEC`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llamac.cli.common import SetOption, SpecArgument, load
from llamac.spec import Spec

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="RUN", help="Run directory [runs/<name>]"),
]


class EngineName(StrEnum):
    processes = "processes"
    ray = "ray"


class DataError(Exception):
    """What preparation cannot go on from, in words; exit code 1, or 2 where the spec is at odds
    with what is there."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def told() -> Iterator[None]:
    """Errors that a person can mend leave as their message and an exit code."""
    from llamac.data.stages import StageError
    from llamac.data.state import Changed
    from llamac.runtime.errors import RunError
    from llamac.runtime.shards import PreparedDataMismatch

    try:
        yield
    except RunError as error:
        at_odds = isinstance(error, Changed | PreparedDataMismatch | StageError)
        raise DataError(str(error), 2 if at_odds else 1) from None


def directory_of(spec: Spec, run: Path | None) -> Path:
    """Where the spec's run will look for its data."""
    return Path(spec.data.directory or (run or Path("runs") / spec.name) / "data")


@app.callback()
def data() -> None:
    """Clean, mix and account for the text that SPEC learns from."""


@app.command()
def prepare(
    spec: SpecArgument,
    run: RunOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes [one for each core]")
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="What runs the jobs")] = EngineName.processes,
    overrides: SetOption = None,
) -> None:
    """Clean the sources and write token shards; after any interruption, the same goes on."""
    loaded = load(spec, overrides)
    prepare_here(loaded, directory_of(loaded, run), workers or cores(), engine)


def prepare_here(
    spec: Spec, directory: Path, workers: int, engine: EngineName = EngineName.processes
) -> dict[str, Any]:
    """Prepares, saying how far it is; returns the manifest."""
    from llamac.cli.progress import reported
    from llamac.data import executor
    from llamac.data import prepare as preparing

    with told():
        preparation = preparing.planned(spec, directory)
        engines = {
            "processes": lambda: executor.processes(workers),
            "ray": lambda: executor.ray(os.environ.get("RAY_ADDRESS")),
        }
        with engines[engine.value]() as run, reported() as report:
            return preparing.prepare(preparation, run, report)


@app.command()
def classifier(spec: SpecArgument, overrides: SetOption = None) -> None:
    """Train the models that stages need: the classifier of pages, the language model."""
    loaded = load(spec, overrides)
    from llamac.data.classifier import told_of, train_models

    with told():
        for report in train_models(loaded.data, typer.echo).values():
            typer.echo(told_of(report))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
