"""What every verb that takes a SPEC shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from llamac.spec import Spec, load_spec

SpecArgument = Annotated[
    str, typer.Argument(metavar="SPEC", help="A spec file, or a shipped spec: tiny, 65b, …")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set model.dim=512"),
]


def load(spec: str, overrides: Sequence[str] | None) -> Spec:
    """The spec a command line names. Raises SpecError, which `llamac.cli.main` prints."""
    return load_spec(spec, overrides or ())
