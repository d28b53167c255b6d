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

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class UntrustedError(Exception):
    """The directory's code is not what llamac emits."""

    exit_code = 2


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
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the directory's own code, whoever wrote it")
    ] = False,
) -> None:
    """Continue a text with what a run has learnt, by the model and code that it trains with.

    Defaults are the run's own, from the keys of its spec in brackets. What runs is what llamac
    emits for the run's spec, and only if that is what the directory holds, or with --trust the
    directory's own code.
    """
    _require_run(run)
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
    if trust:
        program = str(run.absolute() / "generate.py")
        os.execv(sys.executable, [sys.executable, program, *options])
    files = _emitted(run)
    with TemporaryDirectory(prefix="llamac-generate-") as directory:
        for name, text in files.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        program = str(Path(directory, "generate.py"))
        before = signal.signal(signal.SIGINT, lambda *_: None)  # it is the program's to heed
        try:
            command = [sys.executable, program, f"--run={run.absolute()}", *options]
            raise typer.Exit(subprocess.run(command, check=False).returncode)
        finally:
            signal.signal(signal.SIGINT, before)


def _emitted(run: Path) -> dict[str, str]:
    """Return the program that this llamac emits for the run's spec.

    Raises UntrustedError unless the directory holds the very same: only then is what runs known to
    be what trained the weights, and to be ours.
    """
    from llamac.emit.build import files_of
    from llamac.passes.pipeline import stages
    from llamac.runtime.emitted import decides
    from llamac.spec import load_spec

    spec = load_spec(str(run / "spec.toml"))
    files = {name: text for name, text in files_of(spec, stages(spec)).items() if decides(name)}
    other = [name for name, text in files.items() if not _holds(run / name, text)]
    if other:
        raise UntrustedError(
            f"{run} holds other code than this llamac emits for its spec: {', '.join(other)}. If "
            "you know who wrote it, run it with --trust; or bring it up to date with `llamac build "
            f"{run}/spec.toml -o {run}`"
        )
    return files


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _require_run(run: Path) -> None:
    """Refuses what is not a run directory with its trainer."""
    if (run / "generate.py").is_file() and (run / "MANIFEST.json").is_file():
        return
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
