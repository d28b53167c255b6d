"""Validation of a TOML document's data, with all problems reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from llamac.spec.rules.between_sections import broken_rules
from llamac.spec.section import Section
from llamac.spec.toml.paths import with_absolute_paths
from llamac.spec.toml.toml_document import TomlDocument
from llamac.spec.validation.errors import OPTION, Diagnostic, Location, Problem, SpecError
from llamac.spec.validation.messages import explain

ExtraRules = Callable[[Mapping[str, Any], TomlDocument], Iterable[Problem]]
"""Function that yields problems, given the sections that are valid by themselves and the document.

Paths in the sections are absolute.
"""

SpecModel = TypeVar("SpecModel", bound=Section)


def validate_document(
    kind: type[SpecModel], document: TomlDocument, extra_rules: ExtraRules | None = None
) -> SpecModel:
    """Validate a document's data as a whole spec, and return it with absolute paths.

    Raises SpecError with all problems, in the order of their positions.

    kind: model class of the spec. extra_rules: rules to check in addition to the models' own.
    """
    stem = PurePath(document.file).name.removesuffix(".toml")
    data = {"name": stem, **document.data}
    problems: list[Problem] = []
    spec = None
    try:
        spec = kind.model_validate(data)
        sections = dict(spec)
    except ValidationError as error:
        sections = _valid_sections(kind, data)
        problems += [*explain(error, kind, data), *broken_rules(sections)]
    if extra_rules is not None:
        absolute = {
            key: with_absolute_paths(section, document, (key,))
            for key, section in sections.items()
            if isinstance(section, Section)
        }
        problems += extra_rules(absolute, document)
    if spec is None or problems:
        found = [_diagnostic(problem, document) for problem in dict.fromkeys(problems)]
        raise SpecError(sorted(found, key=_order)) from None
    return with_absolute_paths(spec, document)


def _valid_sections(kind: type[Section], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections that are valid by themselves."""
    sections: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if isinstance(section := field.annotation, type) and issubclass(section, BaseModel):
            try:
                sections[name] = section.model_validate(data.get(name, {}))
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
