"""Options and helpers of the commands that take a SPEC."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from llamac.spec import Spec, load_spec
from llamac.spec.model import Model
from llamac.spec.validation.errors import printable

SpecArgument = Annotated[
    str, typer.Argument(metavar="SPEC", help="A spec file, or a shipped spec: tiny, 65b, …")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set model.dim=512"),
]


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON only")]


def print_status(text: str) -> None:
    """Print a progress message to stderr, as results go to stdout."""
    from llamac.runtime.terminal import quiet

    print(quiet(text, sys.stderr), file=sys.stderr, flush=True)


def heads(model: Model) -> str:
    """Return `8 heads of 32`, and the number of key and value heads."""
    text = f"{model.n_heads} heads of {model.head_dim}"
    if model.n_kv_heads != model.n_heads:
        text += f" sharing {model.n_kv_heads} of keys and values"
    return text


def load(spec: str, overrides: Sequence[str] | None, files: bool = False) -> Spec:
    """Return the spec named on the command line, printing its notes to stderr.

    files: whether its files must exist. Raises SpecError, which `llamac.cli.main` prints.
    """
    more = None
    if files:
        from llamac.cli.preflight.needed_files import missing_files

        more = missing_files
    loaded = load_spec(spec, overrides or (), more)
    for note in loaded.document.notes if loaded.document else ():
        print(f"note: {printable(note)}", file=sys.stderr)
    return loaded
