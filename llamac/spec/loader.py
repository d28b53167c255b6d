"""Load a validated Spec from files and `--set`, or raise SpecError with all problems."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath

from llamac.spec.root import Spec
from llamac.spec.toml.overrides import apply_overrides
from llamac.spec.toml.toml_document import read
from llamac.spec.validation.errors import Diagnostic, Location, SpecError
from llamac.spec.validation.validate import MoreRules


def load_spec(
    path: str | PathLike[str], overrides: Sequence[str] = (), more: MoreRules | None = None
) -> Spec:
    """Return the validated spec in a TOML file, with `extends` merged and overrides applied.

    path: a file, or the name of a shipped spec: `tiny`, `specs/65b.toml`. overrides: as given to
    `--set`: `model.dim=64`. more: additional rules, whose problems are reported together with the
    others. Raises SpecError.
    """
    file = fspath(path)
    try:
        document = read(file)
        apply_overrides(document, overrides)
        return Spec.of(document, more)
    except RecursionError:
        message = "nested too deeply to be a spec"
        raise SpecError([Diagnostic(Location(file), message)]) from None
