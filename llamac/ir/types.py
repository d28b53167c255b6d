"""Tensor types: a dtype and a shape whose batch and sequence sizes stay symbolic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

Dim = int | str  # a literal size, or a symbol: "B" sequences, "S" positions

DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "i64": torch.int64,
}


class TypeRuleError(Exception):
    """An op was given operands its typing rule refuses."""


@dataclass(frozen=True)
class TensorType:
    """The static type of one value: `bf16[B,S,4096]`."""

    dtype: str
    shape: tuple[Dim, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise TypeRuleError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPES)}")

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    def with_shape(self, *shape: Dim) -> TensorType:
        return replace(self, shape=shape)

    def elements(self, symbols: Mapping[str, int]) -> int:
        """Number of elements once B and S are known."""
        count = 1
        for dim in self.shape:
            count *= symbols[dim] if isinstance(dim, str) else dim
        return count

    def nbytes(self, symbols: Mapping[str, int]) -> int:
        """Size in bytes once B and S are known."""
        return self.elements(symbols) * DTYPES[self.dtype].itemsize

    @classmethod
    def parse(cls, text: str) -> TensorType:
        """Read back what `str()` wrote, e.g. `bf16[B,S,4096]`; `f32[]` is a scalar."""
        dtype, _, rest = text.strip().partition("[")
        if not rest.endswith("]"):
            raise TypeRuleError(f"not a tensor type: {text!r}")
        dims = [dim.strip() for dim in rest[:-1].split(",") if dim.strip()]
        return cls(dtype, tuple(int(dim) if dim.isdigit() else dim for dim in dims))


Types = TensorType | tuple[TensorType, ...]


def expect(condition: bool, message: str) -> None:
    """Raise `TypeRuleError(message)` unless `condition` holds."""
    if not condition:
        raise TypeRuleError(message)
