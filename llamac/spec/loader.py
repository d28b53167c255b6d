"""Files and `--set` → a validated Spec, or a SpecError that says everything at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ValidationError

from llamac.spec.document import TomlDocument, read
from llamac.spec.errors import OPTION, REPLACED, Diagnostic, Location, Path, Problem, SpecError
from llamac.spec.explain import explain
from llamac.spec.overrides import apply_overrides
from llamac.spec.paths import with_whole_paths
from llamac.spec.positions import Place
from llamac.spec.root import Spec
from llamac.spec.rules import broken_rules
from llamac.spec.section import Section, written

MoreRules = Callable[[Mapping[str, Any], TomlDocument], Iterable[Problem]]
"""Further rules: problems of the sections that are valid by themselves, with absolute paths."""


def load_spec(
    path: str | PathLike[str], overrides: Sequence[str] = (), more: MoreRules | None = None
) -> Spec:
    """The spec in a TOML file, its `extends` merged and `overrides` (`"model.dim=64"`) applied.

    `path` may also name a shipped spec: `tiny`, `specs/65b.toml`. more: rules that a spec must also
    keep here, reported together with the others. Raises SpecError.
    """
    file = fspath(path)
    try:
        document = read(file)
        apply_overrides(document, overrides)
        return _validated(document, more)
    except RecursionError:
        message = "nested too deeply to be a spec"
        raise SpecError([Diagnostic(Location(file), message)]) from None


def revise(spec: Spec, changes: Mapping[str, Any]) -> Spec:
    """Return a changed copy of a spec: the implementation of `Spec.replace`."""
    document = copy.deepcopy(spec._document) or TomlDocument(spec.name, spec.written())
    document.data.setdefault("name", spec.name)
    for key, value in changes.items():
        path: Path = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
        if value is None:
            document.drop(path)
        else:
            here = Location(REPLACED, 1, 1, len(key), f"{key} = {value!r}")
            document.put(path, written(value), Place(here, here))
    return _validated(document)


def _validated(document: TomlDocument, more: MoreRules | None = None) -> Spec:
    stem = PurePath(document.file).name.removesuffix(".toml")
    data = {"name": stem, **document.data}
    problems: list[Problem] = []
    try:
        spec = Spec.model_validate(data)
        sections = dict(spec)
    except ValidationError as error:
        sections = _valid_sections(data)
        problems += [*explain(error, Spec, data), *broken_rules(sections)]
    if more is not None:
        whole = {
            key: with_whole_paths(section, document, (key,))
            for key, section in sections.items()
            if isinstance(section, Section)
        }
        problems += more(whole, document)
    if problems:
        found = [_diagnostic(problem, document) for problem in dict.fromkeys(problems)]
        raise SpecError(sorted(found, key=_order)) from None
    spec = with_whole_paths(spec, document)
    spec._document = document
    return spec


def _valid_sections(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections that are valid by themselves."""
    sections: dict[str, Any] = {}
    for name, field in Spec.model_fields.items():
        if isinstance(kind := field.annotation, type) and issubclass(kind, BaseModel):
            try:
                sections[name] = kind.model_validate(data.get(name, {}))
            except ValidationError:
                continue
    return sections


def _diagnostic(problem: Problem, document: TomlDocument) -> Diagnostic:
    if problem.path == ("name",) and "name" not in document.data:
        hint = f'rename the file, or give a name at its top: name = "my-run" ({problem.help})'
        message = problem.message.replace("`name`", "the default name, which is the file's,")
        return Diagnostic(Location(document.file), message, hint)
    place = document.place(problem.path)
    return Diagnostic(getattr(place, problem.at), problem.message, problem.help)


def _order(diagnostic: Diagnostic) -> tuple[Any, ...]:
    where = diagnostic.location
    return where.file == OPTION, where.file, where.line, where.column
