"""Translation of Pydantic's errors into messages with key, problem and hint."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from llamac.spec.validation.errors import (
    BrokenRules,
    Path,
    Problem,
    closest_option,
    describe,
    join_options,
    toml_key,
)

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string in quotes",
    "finite_number": "a finite number",
    "dict_type": "a table",
    "tuple_type": "an array",
}
_ALTERNATIVES = {
    "schedule": "`steps` or `tokens`",
    "batch": "`tokens` or `sequences`",
    "data": "one [[data.source]] or more",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def explain(error: ValidationError, model: type[BaseModel], data: Any) -> list[Problem]:
    """Return the problems behind a Pydantic error, with paths into `data`.

    error: raised by validating `data` as `model`.
    """
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        if not _is_consequence(detail):
            problems += _one(dict(detail), model, data)
    return problems


def _is_consequence(detail: Mapping[str, Any]) -> bool:
    """Return whether an error only follows from others, as the length of an invalid array does."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _one(detail: dict[str, Any], model: type[BaseModel], data: Any) -> Iterator[Problem]:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    path = _document_path(detail["loc"], data, keep_last=kind == "missing")
    name = _name(path)
    if kind == "value_error" and isinstance(broken := context["error"], BrokenRules):
        for problem in broken.problems:
            yield Problem((*path, *problem.path), problem.message, problem.help, problem.at)
    elif kind == "value_error":
        yield Problem(path, f"{name} {context['error']}")
    elif kind == "missing" and isinstance(path[-1], int):
        yield Problem(path[:-1], f"{_name(path[:-1])} needs more than {_entries(path[-1])}")
    elif kind == "missing":
        yield _missing(path, model, data)
    elif kind == "extra_forbidden":
        yield _unknown_key(path, model, data)
    elif path and path[-1] == "[key]":
        yield Problem(
            path[:-1], f"{describe(value)} is not a valid name of an environment variable", at="key"
        )
    else:
        message, hint = _wrong_value(kind, value, context)
        path = (*path, _tag(context)) if kind == "union_tag_invalid" else path
        yield Problem(path, f"{name} {message}", hint)


def _wrong_value(kind: str, value: Any, context: Mapping[str, Any]) -> tuple[str, str]:
    """Return (requirement, hint) for an invalid value."""
    found = describe(value)
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}, not {found}", _quoting_hint(kind, value)
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"must be {words} {context[key]}, not {found}", ""
    match kind:
        case "literal_error":
            options = context["expected"].replace("'", '"')
            hint = _closest(value, options.split('"')[1::2]).replace("`", '"')
            return f"must be {options}, not {found}", hint
        case "union_tag_invalid":
            options = context["expected_tags"].replace("'", '"').split(", ")
            hint = _closest(context["tag"], [option.strip('"') for option in options])
            return f"must have {_tag(context)} = {join_options(options)}", hint.replace("`", '"')
        case "union_tag_not_found":
            options = {"kind": 'a kind: "linear" or "llama3"', "stage": "`stage`, its name"}
            return f"needs {options[_tag(context)]}", ""
        case "model_type" | "model_attributes_type":
            return f"must be a table, not {found}", ""
        case "string_pattern_mismatch":
            rule = "must be letters, digits, '.', '_' and '-' after a first letter or digit"
            return f"{rule}, not {found}", "it names directories, so 64 characters at most"
        case "too_short" if value == "":
            return "must not be empty", ""
        case "too_short" | "too_long":
            size = context.get("min_length", context.get("max_length"))
            few = "at least" if kind == "too_short" else "at most"
            return f"must have {few} {_entries(size)}", ""
        case _:
            return f"cannot be {found}", ""


def _tag(context: Mapping[str, Any]) -> str:
    """Return the discriminator key of a union of tables."""
    return str(context["discriminator"]).strip("'")


def _entries(count: Any) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _quoting_hint(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, int | float):
        return f'write "{str(value).lower()}" in quotes'
    if kind in ("int_type", "float_type") and isinstance(value, str) and _is_number(value):
        return f"write {value.strip()} without quotes"
    if kind == "bool_type" and str(value).lower() in ("true", "false"):
        return f"write {str(value).lower()} without quotes"
    if kind == "tuple_type" and isinstance(value, dict):
        return "write [[double brackets]]: this section may be repeated"
    return ""


def _is_number(text: str) -> bool:
    """Return whether TOML reads `text` as a number."""
    return re.fullmatch(r"\s*[+-]?\d+(\.\d+)?([eE][+-]?\d+)?\s*", text) is not None


def _closest(word: Any, options: typing.Sequence[str]) -> str:
    near = closest_option(str(word), options)
    return f"did you mean `{near}`?" if near else ""


def _unknown_key(path: Path, model: type[BaseModel], data: Any) -> Problem:
    *parent, key = path
    here = _model_at(model, tuple(parent), data)
    keys = list(here.model_fields) if here else []
    kind = "section or key of a spec" if not parent else f"key of {_name(tuple(parent))}"
    hint = _closest(key, keys) or _elsewhere(str(key), model) or f"there are {join_options(keys)}"
    return Problem(path, f"`{toml_key(key)}` is not a {kind}", hint, at="key")


def _elsewhere(key: str, model: type[BaseModel]) -> str:
    """Return a hint for a key that is right in another section."""
    owners = [
        f"[{name}]"
        for name, field in model.model_fields.items()
        if (section := _first_model(field.annotation)) and key in section.model_fields
    ]
    return f"`{key}` belongs in {join_options(owners)}" if owners else ""


def _missing(path: Path, model: type[BaseModel], data: Any) -> Problem:
    if len(path) == 1:
        section = _first_model(model.model_fields[str(path[0])].annotation)
        fields = section.model_fields.items() if section else ()
        keys = [f"`{key}`" for key, field in fields if field.is_required()]
        needs = _ALTERNATIVES.get(str(path[0])) or " and ".join(keys)
        return Problem(path, f"the section {_name(path)} is missing", f"it needs {needs}")
    owner = _model_at(model, path[:-1], data)
    field = owner.model_fields.get(str(path[-1])) if owner else None
    hint = field.description if field and field.description else ""
    return Problem(path, f"{_name(path)} is required in {_name(path[:-1])}", hint, at="key")


def _name(path: Path) -> str:
    """Return what messages call a path: `[section]`, or a key in backticks."""
    match path:
        case ():
            return "the spec"
        case ("data", "source"):
            return "[[data.source]]"
        case ("data", "source", int()):
            return "this [[data.source]]"
        case ("data", "source", int(), "stage", int()):
            return "this [[data.source.stage]]"
        case (str() as section,) if section not in ("name", "seed"):
            return f"[{toml_key(section)}]"
        case (*_, str() as key, int()):
            return f"each entry of `{toml_key(key)}`"
        case _:
            return f"`{toml_key(path[-1])}`"


def _document_path(loc: tuple[str | int, ...], data: Any, keep_last: bool) -> Path:
    """Return Pydantic's location without union tags, which are not in the document."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        expected = part == "[key]" or (keep_last and index == len(loc) - 1)
        if isinstance(data, dict) and part not in data and not expected:
            continue
        path.append(part)
        try:
            data = data[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            data = None
    return tuple(path)


def _model_at(model: type[BaseModel] | None, path: Path, data: Any) -> type[BaseModel] | None:
    options: list[type[BaseModel]] = []
    for part in path:
        data = data[part]
        if isinstance(part, str) and model:
            options = list(_models(model.model_fields[part].annotation))
        model = next((m for m in options if _tagged(m, data)), options[0] if options else None)
    return model


def _tagged(model: type[BaseModel], data: Any) -> bool:
    """Return whether a table's `kind` or `stage` selects this model."""
    return isinstance(data, dict) and any(
        data.get(key) in typing.get_args(model.model_fields[key].annotation)
        for key in ("kind", "stage")
        if key in model.model_fields and isinstance(data.get(key), str)
    )


def _first_model(annotation: Any) -> type[BaseModel] | None:
    return next(_models(annotation), None)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models inside an annotation such as `tuple[Source, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)
