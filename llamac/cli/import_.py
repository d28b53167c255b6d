"""`llamac import DIR|FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamac.cli.common.options import print_status
from llamac.cli.common.output import check_output, write_output
from llamac.cli.common.sigterm import sigterm_interrupts

app = typer.Typer(add_completion=False, rich_markup_mode=None)

DtypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="float32|bfloat16|float16", help="Dtype of the written weights [unchanged]"
    ),
]


@app.command(name="import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE",
            help="A Hugging Face, Meta (params.json, *.pth) or peft directory, or a .gguf file",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="NAME.toml",
            help="Spec to write; the weights go to NAME/ beside it",
        ),
    ],
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="With adapters: the import or run on which they were trained"
        ),
    ] = None,
    dtype: DtypeOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier import of this name")
    ] = False,
) -> None:
    """Import a model: write a spec, and beside it a directory of weights and tokenizer.

    The spec continues its training (`llamac train NAME.toml`); `llamac generate` and `llamac
    export` take the directory. No code of the source is run.
    """
    if output.suffix != ".toml":
        raise typer.BadParameter(f"{output} must end in .toml", param_hint="-o")
    if not source.exists():
        raise typer.BadParameter(f"{source} does not exist", param_hint="DIR|FILE")
    check_output(output, overwrite=overwrite)
    from llamac.convert.directory import write_import
    from llamac.convert.formats import dtype_of, open_source

    with sigterm_interrupts():
        write_import(
            open_source(source, base, print_status),
            output,
            dtype_of(dtype),
            overwrite,
            print_status,
            lambda text: write_output(output, text, overwrite=overwrite),
        )
    name = output.with_suffix("")
    print_status(f"wrote {output} and {name}/; try: llamac generate {name} --prompt TEXT")
