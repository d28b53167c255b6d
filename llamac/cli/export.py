"""`llamac export RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamac.cli.common.options import print_status
from llamac.cli.common.sigterm import sigterm_interrupts

app = typer.Typer(add_completion=False, rich_markup_mode=None)

FORMATS = ("hf", "meta", "gguf", "peft")


@app.command()
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory of `llamac train` or `llamac import`")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Directory to write")
    ],
    format: Annotated[
        str,
        typer.Option(
            metavar="hf|meta|gguf|peft",
            help="Hugging Face, Meta's code, llama.cpp, or a LoRA run's adapters alone",
        ),
    ] = "hf",
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="STEP|PATH", help="Checkpoint to use; newest: the newest undamaged one"
        ),
    ] = "newest",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="float32|bfloat16|float16|q8_0", help="Dtype of the written weights [unchanged]"
        ),
    ] = None,
    parts: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="With --format meta: number of files, one per model-parallel rank",
        ),
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export")
    ] = False,
) -> None:
    """Write the weights and tokenizer of a run or import in a format of other tools.

    RUN is not changed and may be training meanwhile. DIR is created only when complete.
    """
    if format not in FORMATS:
        message = f"unknown format {format!r}; known: {', '.join(FORMATS)}"
        raise typer.BadParameter(message, param_hint="--format")
    if parts > 1 and format != "meta":
        raise typer.BadParameter("--format must be meta", param_hint="--parts")
    if not run.is_dir():
        raise typer.BadParameter(f"there is no directory {run}", param_hint="RUN")
    from llamac.convert.export import write_export

    with sigterm_interrupts():
        write_export(run, output, format, checkpoint, dtype, parts, overwrite, print_status)
    print_status(f"wrote {output}")
