"""`llamac schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llamac.cli.common.output import OverwriteFile, write_output
from llamac.spec.schema import json_schema

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def schema(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write [standard output]")
    ] = None,
    overwrite: OverwriteFile = False,
) -> None:
    """Print the JSON Schema of specs, for completion in your editor.

    With Taplo or VS Code's Even Better TOML, write it to llamac.schema.json and start a spec with
    the line `#:schema llamac.schema.json`.
    """
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False)
    if output is None:
        print(text)
    else:
        write_output(output, text + "\n", overwrite=overwrite)
        print(f"wrote {output}")
