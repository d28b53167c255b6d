"""Base class of the spec's sections: strict types, no unknown keys, rules reported together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llamac.spec.validation.errors import BrokenRules, Problem

DERIVED: Any = None
"""None, the default of fields that `derived_values` sets; Any, so that their types exclude None."""

FromArray = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""Validator of a tuple field that also accepts a list, the type of TOML arrays."""


def default_tag(key: str, default: str) -> BeforeValidator:
    """Return a validator that adds a union's discriminator, `key = default`, if it is missing."""
    return BeforeValidator(
        lambda value: {key: default, **value} if isinstance(value, dict) else value
    )


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain the character U+0000: no path or variable can hold it")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]
"""A string without U+0000, so that it may become a path or an environment variable."""


NonEmpty = Annotated[Text, Field(min_length=1)]


class Section(BaseModel):
    """Base class of the spec's tables: immutable, of strict types, without unknown keys.

    Subclasses override `rules` and `derived_values`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    FILES: ClassVar[tuple[str, ...]] = ()
    """Keys whose values are paths, absolute or relative (see `llamac.spec.toml.paths`)."""
    GLOBS: ClassVar[tuple[str, ...]] = ()
    """Keys whose values are tuples of glob patterns, absolute or relative as in `FILES`."""

    def is_file(self, key: str) -> bool:
        """Return whether the value of `key` is a path, which is made absolute if it is relative."""
        return key in self.FILES

    def rules(self) -> Iterator[Problem]:
        """Yield the violated rules that concern this section alone, with paths relative to it."""
        yield from ()

    def derived_values(self) -> dict[str, Any]:
        """Return the values to set after validation, by field: those whose default is DERIVED.

        They replace the fields' values, so an override leaves out, or returns unchanged, what the
        spec sets (`is_set`). Called only if `rules` yields no problem.
        """
        return {}

    def is_set(self, key: str) -> bool:
        """Return whether the spec sets this key, rather than a default or `derived_values`."""
        return key in self.model_fields_set and getattr(self, key) is not None

    def toml_values(self) -> dict[str, Any]:
        """Return the keys and values that `to_toml` writes, without those that are None."""
        return {key: toml_value(value) for key, value in self if value is not None}

    @model_validator(mode="after")
    def _settle(self) -> Any:
        if problems := list(self.rules()):
            raise BrokenRules(problems)
        vars(self).update(self.derived_values())
        return self


def toml_value(value: Any) -> Any:
    """Convert a field's value to plain TOML data: tuples to lists, sections to dicts."""
    if isinstance(value, tuple):
        return [toml_value(entry) for entry in value]
    return value.toml_values() if isinstance(value, Section) else value


def require_one_of(section: Section, first: str, second: str) -> Iterator[Problem]:
    """Yield a problem unless the section sets exactly one of two keys."""
    given = [key for key in (first, second) if section.is_set(key)]
    if len(given) == 2:
        message = f"`{first}` and `{second}` are mutually exclusive"
        yield Problem((second,), message, f"keep one of `{first}` and `{second}`", at="key")
    elif not given:
        yield Problem((), f"either `{first}` or `{second}` is required", at="key")
