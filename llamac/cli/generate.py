"""`llamac generate RUN`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from llamac.cli.common.sigterm import sigterm_interrupts

IMPORT_NOTE = "import.json"  # written by `llamac import`

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def generate(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Directory of `llamac train` or `llamac import`"),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Text to continue; repeatable; - reads standard input"),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help='One prompt per line, or JSON lines: text or {"prompt": …}'
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Render prompts as messages with the model's chat template"),
    ] = False,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System message of --chat")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Maximum number of new tokens (eval.sample_tokens)"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="T", help="Sampling temperature; 0: greedy (eval.temperature)"),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Nucleus sampling (eval.top_p)")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Sample from the K most likely tokens; 0: all")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Smallest probability relative to the most likely"),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(metavar="R", help="Divide scores of tokens that occurred; 1: off"),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; repeatable")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Seed of sampling (seed)")] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Prompts generated together (8)")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per prompt")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile decoding; worthwhile for thousands of tokens")
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="STEP|PATH", help="Checkpoint to use (newest valid one)")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the directory's own code, even if changed")
    ] = False,
) -> None:
    """Continue texts with the weights of a run or import, by code compiled from its spec.

    Defaults are the values of the spec keys in parentheses. The code is compiled from that spec
    and must equal the directory's code; --trust runs the directory's own code instead.
    """
    if not prompt and prompts is None:
        raise typer.BadParameter("give --prompt TEXT or --prompts FILE", param_hint="'--prompt'")
    _require_run(run)
    given = {
        "prompt": prompt,
        "prompts": prompts and prompts.absolute(),
        "system": system,
        "tokens": tokens,
        "temperature": temperature,
        "top-p": top_p,
        "top-k": top_k,
        "min-p": min_p,
        "repetition-penalty": repetition_penalty,
        "stop": stop,
        "seed": seed,
        "batch": batch,
        "checkpoint": checkpoint,
    }
    flags = {"chat": chat, "json": as_json, "compile": compiled}
    options = [f"--{name}" for name, value in flags.items() if value]
    for name, value in given.items():
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            options.append(f"--{name}={one}")
    sys.stdout.flush()
    sys.stderr.flush()
    if trust:
        program = str(run.absolute() / "generate.py")
        os.execv(sys.executable, [sys.executable, program, *options])
    from llamac.emit.trusted import trusted_program

    files = trusted_program(run)
    with sigterm_interrupts(), TemporaryDirectory(prefix="llamac-generate-") as directory:
        for name, text in files.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        program = str(Path(directory, "generate.py"))
        before = signal.signal(signal.SIGINT, lambda *_: None)  # the program handles the interrupt
        try:
            command = [sys.executable, program, f"--run={run.absolute()}", *options]
            raise typer.Exit(subprocess.run(command, check=False).returncode)
        finally:
            signal.signal(signal.SIGINT, before)


def _require_run(run: Path) -> None:
    """Raise an error if a directory is neither a run with its trainer nor an import."""
    if (run / "generate.py").is_file() and (run / "MANIFEST.json").is_file():
        return
    if (run / IMPORT_NOTE).is_file():
        return
    if not run.exists():
        known = Path("runs") / run
        hint = f"did you mean {known}?" if known.is_dir() else "create one with `llamac train`"
        problem = f"there is no run directory {run}; {hint}"
    elif (run / "checkpoints").is_dir():
        problem = (
            f"{run} holds a run without its trainer; use the trainer that wrote it: "
            f"python TRAINER/generate.py --run {run}"
        )
    else:
        problem = f"{run} is not a run directory; create one with `llamac train`"
    raise typer.BadParameter(problem, param_hint="RUN")
