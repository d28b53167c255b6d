"""Tables of untrusted files (config.json, params.json, GGUF's metadata), read by key and type."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from llamac.convert.errors import ConversionError

M = TypeVar("M", bound=BaseModel)
Size = Annotated[int, Field(ge=1, lt=2**31)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Number = Annotated[float, Field(gt=0)]


class Table(BaseModel):
    """Typed table of the keys in use; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


def checked(kind: type[M], table: Any, where: str) -> M:
    """Validate an untrusted table and return it as a `kind`.

    where: the file. Raises ConversionError, which names the file and the key.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise ConversionError(f"{where}{_reason(error)}") from error


def _reason(error: ValidationError) -> str:
    found = error.errors()
    if missing := [str(one["loc"][0]) for one in found if _is_missing(one)]:
        return f" lacks {', '.join(missing)}"
    if unknown := [str(one["loc"][0]) for one in found if one["type"] == "extra_forbidden"]:
        return f" has {', '.join(unknown)}, which is not supported"
    first = found[0]
    broken = getattr(first.get("ctx", {}).get("error"), "problems", ())
    message = broken[0].message if broken else first["msg"]
    key = str(first["loc"][0]) if first["loc"] else "its shape"
    return f": {key}: {message}, not {first['input']!r:.60}"


def _is_missing(one: ErrorDetails) -> bool:
    return one["type"] == "missing" and len(one["loc"]) == 1
