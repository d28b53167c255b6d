"""`llamac tokenizer train SPEC`, `compare A B` and `explain TEXT`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llamac.cli.common.options import SetOption, SpecArgument, load
from llamac.cli.common.output import OverwriteFile, check_output, inputs_of

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Model = Annotated[
    str,
    typer.Argument(help="A .model, a tokenizer.json, or a directory of prepared data or of a run"),
]


@app.callback()
def tokenizer() -> None:
    """Train, compare and explain tokenizers."""


@app.command()
def train(
    spec: SpecArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="File to write [<name>.model]"),
    ] = None,
    overrides: SetOption = None,
    overwrite: OverwriteFile = False,
) -> None:
    """Train SPEC's tokenizer on a sample of its sources in proportion to their shares."""
    from llamac.data.tokenization.tokenizers import train_for
    from llamac.runtime.durable_files import write

    loaded = load(spec, overrides)
    path = output or Path(f"{loaded.name}.model")
    check_output(path, inputs_of(loaded), overwrite)
    tokenizer = train_for(loaded, lambda text: print(text, flush=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, tokenizer.model)
    print(f"{path}: {tokenizer.vocab_size:,} pieces, sha256 {tokenizer.pieces_sha256[:12]}")
    print(f'use it with: [tokenizer] path = "{path}"')


@app.command()
def compare(
    a: Model,
    b: Model,
    spec: Annotated[
        str, typer.Option("--spec", metavar="SPEC", help="Spec whose sources are encoded")
    ] = "tiny",
    overrides: SetOption = None,
    sample: Annotated[str, typer.Option(metavar="BYTES", help="Text to encode per source")] = "2MB",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only")] = False,
) -> None:
    """Compare two tokenizers: bytes of each source's text per token."""
    from llamac.data.tokenization.tokenizers import (
        TokenizerComparison,
        compare_tokenizers,
        find_tokenizer,
    )
    from llamac.spec.units import parse_bytes

    try:
        size = parse_bytes(sample)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--sample") from error
    rows: list[TokenizerComparison] = compare_tokenizers(
        find_tokenizer(a), find_tokenizer(b), load(spec, overrides), size
    )
    if as_json:
        print(json.dumps([row.to_json() for row in rows], indent=1))
        return
    _print_table(rows, a, b)


@app.command()
def explain(
    text: Annotated[str, typer.Argument(help="Text to split")],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", metavar="MODEL", help="Tokenizer whose merges to show [trained on TEXT]"
        ),
    ] = None,
    merges: Annotated[int | None, typer.Option(min=1, help="Number of merges to show")] = None,
) -> None:
    """Show byte-pair encoding step by step, learnt from TEXT or as a tokenizer applies it."""
    from llamac.data.tokenization.tokenizers import find_tokenizer, merge_lines

    for line in merge_lines(text, None if tokenizer is None else find_tokenizer(tokenizer), merges):
        print(line)


def _print_table(rows: list[Any], a: str, b: str) -> None:
    from llamac.look.console import show
    from llamac.look.text_table import TextTable

    cells = []
    for row in rows:
        lost = f"{row.lost[0]:,} / {row.lost[1]:,}" if any(row.lost) else "none"
        per = [f"{value:.3f}" for value in row.bytes_per_token]
        cells.append((row.source, f"{row.nbytes:,}", *per, f"{row.ratio:.3f}", lost))
    head = ("source", "bytes", "A", "B", "B / A", "characters lost")
    show(f"A: {a}", f"B: {b}", TextTable("bytes of text in a token", head, cells, "<>>>>>"))
