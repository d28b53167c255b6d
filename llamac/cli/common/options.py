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
    """Print a progress message to stderr, dimmed on a terminal; stdout is for results."""
    from llamac.runtime.terminal import quiet

    print(quiet(text, sys.stderr), file=sys.stderr, flush=True)


def describe_heads(model: Model) -> str:
    """Describe a model's attention heads: `8 heads of 32`, of head_dim 32.

    ` sharing 2 of keys and values` follows if there are fewer key-value heads.
    """
    text = f"{model.n_heads} heads of {model.head_dim}"
    if model.n_kv_heads != model.n_heads:
        text += f" sharing {model.n_kv_heads} of keys and values"
    return text


def load(spec: str, overrides: Sequence[str] | None, files: bool = False) -> Spec:
    """Load the spec named on the command line, and print its notes to stderr.

    Raises SpecError, which `llamac.cli.main` prints, if the spec is invalid.

    spec: a file, or the name of a shipped spec. overrides: values of --set.
    files: whether the files that the spec names must exist, except those of a shipped spec.
    """
    extra_rules = None
    if files:
        from llamac.cli.preflight.needed_files import missing_files

        extra_rules = missing_files
    loaded = load_spec(spec, overrides or (), extra_rules)
    for note in loaded.document.notes if loaded.document else ():
        print(f"note: {printable(note)}", file=sys.stderr)
    return loaded
