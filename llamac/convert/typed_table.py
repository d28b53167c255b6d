"""Validation of tables in untrusted files: config.json, params.json, GGUF metadata."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from llamac.convert.errors import ConversionError

M = TypeVar("M", bound=BaseModel)
Size = Annotated[int, Field(ge=1, lt=2**31)]
"""Positive integer of 31 bits."""

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
"""Non-negative integer of 31 bits."""

Number = Annotated[float, Field(gt=0)]
"""Positive number."""


class Table(BaseModel):
    """Base class of strictly typed tables, immutable and without infinities and NaN.

    Unknown keys are ignored unless a subclass forbids them.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


def validate_table(kind: type[M], table: Any, where: str) -> M:
    """Validate an untrusted table as an instance of `kind`.

    where: the file, for messages. Raises ConversionError, which names the file and the key, if a
    value is missing or invalid.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise ConversionError(f"{where}{_reason(error)}") from error


def _reason(error: ValidationError) -> str:
    errors = error.errors()
    if missing := [str(entry["loc"][0]) for entry in errors if _is_missing(entry)]:
        return f" lacks {', '.join(missing)}"
    if unknown := [str(entry["loc"][0]) for entry in errors if entry["type"] == "extra_forbidden"]:
        return f" has {', '.join(unknown)}, which is not supported"
    first = errors[0]
    broken = getattr(first.get("ctx", {}).get("error"), "problems", ())
    message = broken[0].message if broken else first["msg"]
    if not first["loc"]:  # keys that contradict each other, which the message names
        return f": {message}"
    key = str(first["loc"][0])
    return f": {key}: {message}, not {first['input']!r:.60}"


def _is_missing(one: ErrorDetails) -> bool:
    return one["type"] == "missing" and len(one["loc"]) == 1
