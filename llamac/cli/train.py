"""`llamac train SPEC`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamac.cli.common.options import SetOption, SpecArgument, load, print_status
from llamac.cli.data import data_directory, prepare_here
from llamac.cli.preflight.chosen_dtype import choose_dtype
from llamac.cli.preflight.memory_check import require_memory
from llamac.cli.preflight.plan_note import plan_json
from llamac.spec import Spec

if TYPE_CHECKING:
    from llamac.ir.program import Program

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class ProcessesError(Exception):
    """The number of processes does not match the spec's ranks. The message says what to set."""

    exit_code = 2


@app.command()
def train(
    spec: SpecArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="RUN", help="Run directory [runs/<name>]"),
    ] = None,
    overrides: SetOption = None,
    nproc: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Processes to start, equal to the ranks of [parallel]"
        ),
    ] = None,
    resume: Annotated[
        str, typer.Option(metavar="auto|never|PATH", help="Checkpoint to resume from")
    ] = "auto",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this step without changing the schedule")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Simulate one step of rank 0 without data or other ranks"),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard edits made to emitted files")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --dry-run: print JSON only")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Train even if the predicted memory does not fit")
    ] = False,
) -> None:
    """Build SPEC into a run directory and train it there, resuming an interrupted run."""
    if as_json and not dry_run:
        message = "it needs --dry-run; a run writes its metrics to metrics.jsonl"
        raise typer.BadParameter(message, param_hint="--json")
    loaded = load(spec, overrides)
    if dry_run:
        _print_dry_run(loaded, as_json)
        return
    _require_processes(loaded, nproc)
    _require_checkpoint(resume, output or Path("runs") / loaded.name)
    run = output or Path("runs") / loaded.name
    print_status(f"building {loaded.name} into {run} …")
    loaded, note = choose_dtype(loaded, run)
    if note:
        print_status(note)
    if not (data_directory(loaded, run) / "manifest.json").is_file():
        load(spec, overrides, files=True)

    from llamac.emit.run_directory import update_run_directory

    def make_plan(program: Program) -> str:
        if not anyway:
            require_memory(loaded, program)
        return plan_json(loaded, program)

    for note in update_run_directory(run, loaded, overwrite, make_plan):
        print_status(note)
    _require_data(loaded, run)
    command = [*_launcher(loaded), str(run / "train.py"), "--resume", resume]
    if steps is not None:
        command += ["--steps", str(steps)]
    if loaded.parallel.ranks > 1:
        os.environ.update(torchrun_environment(loaded))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)  # the trainer replaces this process: signals, exit code


def _require_checkpoint(resume: str, run: Path) -> None:
    """Raise an error if --resume names no checkpoint, before anything is built."""
    if resume in ("auto", "never"):
        return
    if not (Path(resume) / "MANIFEST.json").is_file():
        found = sorted(run.glob("checkpoints/step-*"))
        own = f"; the newest of {run} is {found[-1]}" if found else ""
        message = f"there is no checkpoint {resume}: give auto, never, or a directory such as "
        message += f"{run / 'checkpoints' / 'step-00000100'}{own}"
        raise typer.BadParameter(message, param_hint="--resume")


def _require_data(spec: Spec, run: Path) -> None:
    """Prepare the sources that the trainer cannot read by itself, unless already done."""
    directory = data_directory(spec, run)
    raw = any(source.needs_cleaning for source in spec.data.source)
    if raw and not (directory / "manifest.json").is_file():
        prepare_here(spec, directory)


def _print_dry_run(spec: Spec, as_json: bool) -> None:
    """Print rank 0's memory and traffic in one step of the emitted trainer; write nothing."""
    if spec.parallel.ranks == 1:
        raise ProcessesError(
            f"{spec.name} has one rank: run one step with --steps 1. --dry-run simulates several "
            "ranks: add, for instance, --set parallel.tensor=8 --set parallel.data_shard=256"
        )
    from llamac.emit.build import files_of
    from llamac.emit.dry_run import dry_run
    from llamac.emit.importing import import_emitted
    from llamac.look.console import show
    from llamac.look.text_table import TextTable
    from llamac.passes.pass_list import stages

    with import_emitted(files_of(spec, list(stages(spec)))) as module:
        report = dry_run(spec, module)
    calls = [(*key, *value) for key, value in sorted(report.collectives.items())]
    if as_json:
        names = ("collective", "ranks", "calls", "bytes")
        rows = [dict(zip(names, call, strict=True)) for call in calls]
        print(json.dumps(vars(report) | {"collectives": rows}, indent=1))
        return
    micro_batches = f"{report.micro_batches} micro-batches"
    show(
        f"{spec.name}: rank 0 of {report.ranks:,}, one step of {micro_batches}",
        f"holds {report.parameters:,} parameters in {report.parameter_bytes / 1e6:,.1f} MB, "
        f"masters and moments in {report.state_bytes / 1e6:,.1f} MB",
        TextTable(
            "communication of rank 0",
            ("collective", "ranks", "calls", "sent by rank 0"),
            [(kind, f"{n:,}", f"{c:,}", f"{sent / 1e6:,.1f} MB") for kind, n, c, sent in calls],
            "<>>>",
        ),
    )


def _require_processes(spec: Spec, nproc: int | None) -> None:
    """Raise ProcessesError unless `nproc` equals the spec's number of ranks."""
    ranks, nodes = spec.parallel.ranks, spec.launch.nodes(spec.parallel.ranks)
    if nproc is not None and nproc != ranks:
        remedy = f"use --nproc {ranks}, or degrees in [parallel] that multiply to {nproc}"
        if ranks == 1:
            remedy = f"to train on {nproc} ranks, add --set parallel.data_shard={nproc}"
        raise ProcessesError(
            f"{spec.name} needs {_processes(ranks)}, but --nproc is {nproc}: {remedy}"
        )
    if nproc is None and nodes > 1:
        raise ProcessesError(
            f"the {ranks} ranks of {spec.name} need {nodes} nodes of {spec.launch.gpus_per_node}: "
            f"use `llamac launch`, or --nproc {ranks} to start all of them here"
        )


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"


def _launcher(spec: Spec) -> list[str]:
    """Return the command's prefix: Python, or torchrun for several ranks."""
    if spec.parallel.ranks == 1:
        return [sys.executable]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        f"--nproc-per-node={spec.parallel.ranks}",
        f"--max-restarts={spec.launch.max_restarts}",
        "--",  # else torchrun parses train.py's options
    ]


def torchrun_environment(spec: Spec) -> dict[str, str]:
    """Return environment variables to set for torchrun when it starts a run on this machine.

    They set the time for saving after SIGTERM, the threads per rank, and a new store after a
    restart, since torch's shared one keeps the addresses of dead processes. OMP_NUM_THREADS, if
    set, and `launch.environment` take precedence.
    """
    threads = max(1, (os.cpu_count() or 1) // spec.parallel.ranks)
    return {
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(spec.launch.grace),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        **spec.launch.environment,
    }
