"""Load a spec from files and `--set` options, and validate it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath

from llamac.spec.root import Spec
from llamac.spec.toml.overrides import apply_overrides
from llamac.spec.toml.toml_document import read
from llamac.spec.validation.errors import Diagnostic, Location, SpecError
from llamac.spec.validation.validate import ExtraRules


def load_spec(
    path: str | PathLike[str], overrides: Sequence[str] = (), extra_rules: ExtraRules | None = None
) -> Spec:
    """Return the validated spec in a TOML file, with `extends` merged and overrides applied.

    Raises SpecError with all problems.

    path: a file, or the name of a shipped spec, such as `tiny` or `specs/65b.toml`.
    overrides: values of `--set`, such as `model.dim=64`, applied in order.
    extra_rules: further rules, whose problems are reported together with the others.
    """
    file = fspath(path)
    try:
        document = read(file)
        apply_overrides(document, overrides)
        return Spec.from_document(document, extra_rules)
    except RecursionError:
        message = "nested too deeply to be a spec"
        raise SpecError([Diagnostic(Location(file), message)]) from None
