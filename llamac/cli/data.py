"""`llamac data prepare|stats|epochs|where SPEC`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llamac.cli.common.options import JsonOption, SetOption, SpecArgument, load
from llamac.cli.common.output import OverwriteFile, check_output, inputs_of, write_output
from llamac.spec import Spec

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="RUN", help="Run directory [runs/<name>]"),
]


class EngineName(StrEnum):
    """Executors of a preparation's jobs: processes of this machine, or a Ray cluster."""

    processes = "processes"
    ray = "ray"


class Cluster(StrEnum):
    """Schedulers for which `llamac data prepare` can write job scripts."""

    slurm = "slurm"


class DataError(Exception):
    """Data cannot be prepared or read. The message says why.

    exit_code: 2 if the spec contradicts existing data, or a stage or input is invalid; else 1.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def data_errors(spec: Spec) -> Iterator[None]:
    """Context manager that turns each RunError, such as a missing input, into a DataError.

    Errors of a stage or of a source's input are prefixed with their line of the spec.

    spec: the spec whose data is prepared or read.
    """
    from llamac.data.stages import StageError
    from llamac.data.state import SettingsChangedError
    from llamac.runtime.data.token_shards import PreparedDataMismatch
    from llamac.runtime.errors import InputError, RunError

    try:
        yield
    except RunError as error:
        at_odds = isinstance(
            error, SettingsChangedError | PreparedDataMismatch | StageError | InputError
        )
        message = str(error)
        if isinstance(error, StageError) and error.at:
            source, stage = error.at
            message = f"{_line_of(spec, source, 'stage', stage)}: {error}"
        elif isinstance(error, InputError):
            message = f"{_line_of(spec, error.source, *error.at)}: {error}"
        raise DataError(message, 2 if at_odds else 1) from None


def _line_of(spec: Spec, source: str, *keys: str | int) -> str:
    number = [other.name for other in spec.data.source].index(source)
    return spec.where(".".join(map(str, ("data.source", number, *keys))))


def data_directory(spec: Spec, run: Path | None) -> Path:
    """Return the directory of the spec's prepared data.

    run: run directory, in which the data is unless `data.directory` is set; None is runs/<name>.
    """
    from llamac.runtime.durable_files import path_within

    return Path(spec.data.directory or path_within(run or Path("runs") / spec.name, "data"))


@app.callback()
def data() -> None:
    """Prepare SPEC's training text and report on it."""


@app.command()
def prepare(
    spec: SpecArgument,
    run: RunOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Worker processes [one per core]")
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="Executor of the jobs")] = EngineName.processes,
    render: Annotated[Cluster | None, typer.Option(help="Print a job script for a cluster")] = None,
    tasks: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="With --render: largest number of tasks per step"),
    ] = 64,
    options: Annotated[
        str, typer.Option(metavar="TEXT", help="With --render: additional sbatch options")
    ] = "",
    step: Annotated[
        int | None, typer.Option(min=0, help="Run this step only, as the script of --render does")
    ] = None,
    task: Annotated[
        str, typer.Option(metavar="I/N", help="Run every N-th of the step's jobs, from the I-th")
    ] = "0/1",
    overrides: SetOption = None,
) -> None:
    """Clean the sources and write token shards; the same command resumes after an interruption."""
    loaded = load(spec, overrides)
    directory = data_directory(loaded, run)
    if render:
        print(_script(loaded, directory, spec, overrides or [], tasks, options), end="")
    elif step is not None:
        print(_task(loaded, directory, step, task))
    else:
        from llamac.runtime.data.token_shards import report_skipped

        known = (directory / "manifest.json").is_file()
        manifest = prepare_here(loaded, directory, workers, engine)
        print(_prepared(directory, manifest, known))
        for part in manifest["sources"]:
            report_skipped(directory, part, lambda text, _: print(text, file=sys.stderr))


def _prepared(directory: Path, manifest: dict[str, Any], known: bool) -> str:
    """Return `x/data holds 9 tokens of 1 sources, prepared before: a 8 and 1 held out`."""
    from llamac.runtime.data.prepared import SPLITS

    splits = [(one["name"], *(one[s]["tokens"] for s in SPLITS)) for one in manifest["sources"]]
    total = sum(train + held for _, train, held in splits)
    each = ", ".join(f"{name} {train:,} and {held:,} held out" for name, train, held in splits)
    before = ", prepared before" if known else ""
    return f"{directory} holds {total:,} tokens of {len(splits)} sources{before}: {each}"


def _script(
    spec: Spec, directory: Path, name: str, overrides: list[str], tasks: int, options: str
) -> str:
    from llamac.data.cluster import slurm_script
    from llamac.data.prepare import plan_preparation, preparation_steps

    command = ["data", "prepare", name, *(part for o in overrides for part in ("--set", o))]
    with data_errors(spec):
        command += ["--set", f"data.directory={json.dumps(str(directory))}"]
        return slurm_script(
            preparation_steps(plan_preparation(spec, directory)), command, tasks, options
        )


def _task(spec: Spec, directory: Path, step: int, task: str) -> str:
    from llamac.data.cluster import parse_task, run_task
    from llamac.data.prepare import plan_preparation, preparation_steps, record_settings

    try:
        number, count = parse_task(task)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--task") from None
    with data_errors(spec):
        preparation = plan_preparation(spec, directory)
        record_settings(preparation)
        todo = preparation_steps(preparation)
        jobs = run_task(todo, step, number, count)
        return f"step {step} ({todo[step].name}), task {task}: {jobs} jobs are done"


def prepare_here(
    spec: Spec,
    directory: Path,
    workers: int | None = None,
    engine: EngineName = EngineName.processes,
) -> dict[str, Any]:
    """Prepare the data on this machine, showing progress, and return the manifest.

    Prepared data that was moved to `directory` without its working files is used unchanged.

    workers: number of processes; None starts one per core. engine: `processes` of this machine, or
    a `ray` cluster at $RAY_ADDRESS, for which `workers` has no effect. Raises DataError.
    """
    from llamac.cli.common.progress_line import progress_report
    from llamac.data import executor
    from llamac.data import prepare as preparing
    from llamac.runtime.data.token_shards import cores

    with data_errors(spec):
        if manifest := preparing.moved_manifest(spec, directory):
            return manifest
        preparation = preparing.plan_preparation(spec, directory)
        engines = {
            "processes": lambda: executor.process_engine(workers or cores()),
            "ray": lambda: executor.ray(os.environ.get("RAY_ADDRESS")),
        }
        with engines[engine.value]() as run, progress_report() as report:
            return preparing.prepare(preparation, run, report)


@app.command()
def classifier(spec: SpecArgument, overrides: SetOption = None) -> None:
    """Train the models that stages need: the page classifier and the language model."""
    loaded = load(spec, overrides)
    from llamac.data.classifier import report_line, train_models

    with data_errors(loaded):
        for report in train_models(loaded.data, typer.echo).values():
            typer.echo(report_line(report))


@app.command()
def stats(
    spec: SpecArgument,
    run: RunOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.html", help="Write a page with charts"),
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples", help="Show examples of dropped and kept text")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON only, samples included")
    ] = False,
    overwrite: OverwriteFile = False,
    overrides: SetOption = None,
) -> None:
    """Report for each source the documents read, kept and dropped, with reasons."""
    loaded = load(spec, overrides)
    directory = data_directory(loaded, run)
    if output:
        check_output(output, inputs_of(loaded), overwrite)
    from llamac.data.accounting.accounts import accounts

    with data_errors(loaded):
        found = accounts(loaded.data, directory)
    if output:
        from llamac.data.accounting.html_page import data_page

        write_output(output, data_page(loaded.name, found), inputs_of(loaded), overwrite)
        print(f"wrote {output}")
        return
    if as_json:
        print(json.dumps([account.to_json() for account in found], indent=1))
        return
    from llamac.data.accounting import stats as tables
    from llamac.look.console import show

    show(*(tables.samples if samples else tables.funnel_tables)(found))


@app.command()
def epochs(
    spec: SpecArgument,
    run: RunOption = None,
    as_json: JsonOption = False,
    overrides: SetOption = None,
) -> None:
    """Report the epochs of each source in a run, and its progress."""
    loaded = load(spec, overrides)
    directory = data_directory(loaded, run)
    from llamac.data.accounting import epochs as counting
    from llamac.data.accounting.stats import epochs_table
    from llamac.look.console import show

    rows = counting.epochs(loaded, directory, run or Path("runs") / loaded.name)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    show(epochs_table(rows))
    if unknown := [row.name for row in rows if row.unique is None]:
        show(
            f"The number of tokens of {', '.join(unknown)} is not known: set unique_tokens "
            "in [[data.source]], or run `llamac data prepare`."
        )


class TokenFormat(StrEnum):
    """Formats of token files that `llamac data export` writes."""

    megatron = "megatron"
    datatrove = "datatrove"


@app.command()
def export(
    spec: SpecArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Directory to write")
    ],
    kind: Annotated[
        TokenFormat, typer.Option("--format", help="File format")
    ] = TokenFormat.megatron,
    run: RunOption = None,
    overrides: SetOption = None,
) -> None:
    """Write SPEC's prepared tokens as Megatron-LM's .bin and .idx, or datatrove's .ds."""
    loaded = load(spec, overrides)
    from llamac.data.tokenization import token_formats

    with data_errors(loaded):
        for path in token_formats.export(data_directory(loaded, run), output, kind.value):
            print(path)


@app.command()
def where(
    spec: SpecArgument,
    source: Annotated[str, typer.Argument(help="Name of a source")],
    tokens: Annotated[
        str, typer.Argument(metavar="TOKEN[:END]", help="Position of a token or range, from 0")
    ],
    validation: Annotated[
        bool, typer.Option("--validation", help="Use the validation split")
    ] = False,
    text: Annotated[bool, typer.Option("--text", help="Show the tokens' text as well")] = False,
    run: RunOption = None,
    as_json: JsonOption = False,
    overrides: SetOption = None,
) -> None:
    """Report the documents, files and lines from which tokens of a source come."""
    loaded = load(spec, overrides)
    first, colon, last = tokens.replace("_", "").partition(":")
    if not first.isdecimal() or (colon and not last.isdecimal()):
        raise typer.BadParameter(
            f"{tokens!r} is not a token position: give one or a range, such as 1200 or 1200:1300",
            param_hint="TOKEN",
        )
    begin, end = int(first), int(last) if colon else int(first) + 1
    directory, split = data_directory(loaded, run), "validation" if validation else "train"
    from llamac.data.accounting.provenance import documents_at, span_text
    from llamac.runtime.terminal import escaped

    with data_errors(loaded):
        places = list(documents_at(directory, source, begin, end, split))
        words = span_text(directory, source, begin, end, split) if text else None
        if as_json:
            rows = [asdict(place) | {"file": escaped(place.file)} for place in places]
            print(json.dumps({"places": rows} | ({} if words is None else {"text": words})))
            return
        for place in places:
            span = f"tokens {place.begin:,} to {place.end - 1:,}"
            print(f"document {place.document:,}, {span}: {escaped(place.file)}:{place.line}")
        if words is not None:
            print(escaped(words))


@app.command()
def questions(
    tasks: Annotated[str, typer.Option(metavar="NAME,…", help="Multiple-choice tasks")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="File to write, as JSON lines")
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="DIR|TASK=FILE", help="Directory or TASK=FILE with questions; repeatable"
        ),
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="First N questions of each task")
    ] = None,
    overwrite: OverwriteFile = False,
) -> None:
    """Write questions for evaluation during training: `[eval] tasks`."""
    from llamac.cli.common.question_options import load_question_sets
    from llamac.evaluate.export_questions import question_lines
    from llamac.runtime import durable_files

    check_output(output, overwrite=overwrite)
    sets = load_question_sets(tasks, data)
    durable_files.write(output.resolve(), question_lines(sets, limit).encode())
