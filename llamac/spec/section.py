"""Base of every section of a spec: strict types, no unknown keys, rules reported together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llamac.spec.validation.errors import Broken, Problem

DERIVED: Any = None
"""Default of a field that `derived()` fills in from the others, so that its type stays `int`."""

FromArray = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""Validator of a tuple field that also accepts a list, as which TOML arrays arrive."""


def tagged(key: str, default: str) -> BeforeValidator:
    """Return a validator that adds `key = default`, a union's discriminator, if it is missing."""
    return BeforeValidator(
        lambda value: {key: default, **value} if isinstance(value, dict) else value
    )


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain the character U+0000: no path or variable can hold it")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]
"""A string that may become a path, an environment variable or a key."""


NonEmpty = Annotated[Text, Field(min_length=1)]


class Section(BaseModel):
    """A table of the spec, frozen. Subclasses check it in `rules`, and fill it in `derived`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    FILES: ClassVar[tuple[str, ...]] = ()
    """Keys that hold paths, relative to the directory of the spec that gives them."""
    GLOBS: ClassVar[tuple[str, ...]] = ()
    """Keys that hold several, with wildcards."""

    def is_file(self, key: str) -> bool:
        """Return whether the value of `key` is a path, relative to the spec's directory."""
        return key in self.FILES

    def rules(self) -> Iterator[Problem]:
        """Yield the problems within this section, with paths relative to it."""
        yield from ()

    def derived(self) -> dict[str, Any]:
        """Return values of the fields left as DERIVED; called once the rules hold."""
        return {}

    def given(self, key: str) -> bool:
        """Return whether the spec itself gave this key, rather than a default or `derived`."""
        return key in self.model_fields_set and getattr(self, key) is not None

    def written(self) -> dict[str, Any]:
        """Return the keys and values that `to_toml` writes; unset ones are left out."""
        return {key: written(value) for key, value in self if value is not None}

    @model_validator(mode="after")
    def _settle(self) -> Any:
        if problems := list(self.rules()):
            raise Broken(problems)
        vars(self).update(self.derived())
        return self


def written(value: Any) -> Any:
    """Return a field's value as plain TOML data: lists for tuples, dicts for sections."""
    if isinstance(value, tuple):
        return [written(entry) for entry in value]
    return value.written() if isinstance(value, Section) else value


def only_one(section: Section, first: str, second: str) -> Iterator[Problem]:
    """Yield a problem unless the section gives exactly one of two keys."""
    given = [key for key in (first, second) if section.given(key)]
    if len(given) == 2:
        message = f"`{first}` and `{second}` say the same thing twice"
        yield Problem((second,), message, f"keep one of `{first}` and `{second}`", at="key")
    elif not given:
        yield Problem((), f"either `{first}` or `{second}` is required", at="key")
