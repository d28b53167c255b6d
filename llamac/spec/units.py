"""Quantities with units: `"1.4T"` tokens, `"4Mi"` tokens, `"60GB"`, `"60GiB"`.

K, M, G and T are powers of 1000; Ki, Mi, Gi and Ti are powers of 1024. A trailing B means bytes
and changes nothing, except that a token count may end in a bare B for billions (`"1.4B"`).
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from llamac.spec.validation.errors import describe

LARGEST = 10**18
"""Largest number of tokens, and of bytes, that a spec may give: 10¹⁸."""

_SCALE = {
    "": 1,
    **{prefix: 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{prefix + "i": 1024**power for power, prefix in enumerate("KMGT", start=1)},
}
_NUMBER = r"[0-9][0-9_]{0,30}(?:\.[0-9]{1,18})?"
_TOKENS = rf"^{_NUMBER} ?(?:[KMGT]i?|B)?$"
_BYTES = rf"^{_NUMBER} ?(?:[KMGT]i?)?B?$"


def parse_tokens(value: Any) -> int:
    """Parse a number of tokens: `"1.4T"`, `"4Mi"`, `"1.4B"` (billions), 4_000_000 or 4e6.

    Raises ValueError for anything else, for fractions, and outside of 1 to 10¹⁸.
    """
    return _parse(value, _TOKENS, 'a count such as 4_000_000, "4M", "4Mi" or "1.4T"', bare_b=10**9)


def parse_bytes(value: Any) -> int:
    """Parse a size in bytes: `"60GB"`, `"60GiB"`, `"500K"` or 4096.

    Raises ValueError for anything else, for fractions, and outside of 1 to 10¹⁸.
    """
    return _parse(value, _BYTES, 'a size in bytes such as "60GB", "512MiB" or 4096', bare_b=1)


def _parse(value: Any, pattern: str, expected: str, bare_b: int) -> int:
    amount = _exact(value, pattern, bare_b)
    if amount is None:
        raise ValueError(f"must be {expected}, not {describe(value)}")
    if amount != int(amount):
        raise ValueError(f"must be a whole number, not {describe(value)}")
    if not 0 < amount <= LARGEST:
        raise ValueError(f"must be between 1 and {LARGEST:.0e}, not {describe(value)}")
    return int(amount)


def _exact(value: Any, pattern: str, bare_b: int) -> Decimal | int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return Decimal(value) if math.isfinite(value) else None
    if not isinstance(value, str) or not re.fullmatch(pattern, value.strip(" ")):
        return None
    number, unit = re.fullmatch(r"([0-9_.]+) ?([KMGTiB]*)", value.strip(" ")).groups()  # type: ignore[union-attr]
    scale = bare_b if unit == "B" else _SCALE[unit.removesuffix("B")]
    return Decimal(number.replace("_", "")) * scale


def _schema(pattern: str, examples: list[str]) -> WithJsonSchema:
    integer = {"type": "integer", "minimum": 1, "maximum": LARGEST}
    return WithJsonSchema(
        {"anyOf": [integer, {"type": "string", "pattern": pattern}], "examples": examples}
    )


Tokens = Annotated[int, BeforeValidator(parse_tokens), _schema(_TOKENS, ["4M", "4Mi", "1.4T"])]
"""A number of tokens, given in any form that `parse_tokens` accepts."""

Bytes = Annotated[int, BeforeValidator(parse_bytes), _schema(_BYTES, ["50MB", "60GiB"])]
"""A size in bytes, given in any form that `parse_bytes` accepts."""

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A number of things such as heads, layers, steps or sequences, from 1 to 2³¹ - 1."""
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
