"""Tensor types: a dtype, a shape with symbolic batch and sequence sizes, and a layout.

Shapes are local to one rank. The layout says, for each axis of the device mesh, whether the tensor
is sharded along a dimension (`S(dim)`), a partial sum (`P`) or, if the axis is not named,
replicated (after GSPMD, Xu et al. 2021, and torch's DTensor).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

Dim = int | str
"""A literal size, or a symbol: "B" sequences, "S" positions, "S/tp" a rank's part of them."""

Layout = tuple[tuple[str, str], ...]
"""(mesh axis, "S(dim)" or "P") pairs, sorted; on other axes the tensor is replicated."""

DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "i64": torch.int64,
    "bool": torch.bool,
}
"""PyTorch's dtypes by the IR's names."""


class TypeRuleError(Exception):
    """An unknown dtype, a malformed type, or operands that violate an op's typing rule."""


@dataclass(frozen=True)
class TensorType:
    """Dtype, per-rank shape and layout of a value, such as `bf16[B,S/tp,4096]@tp:S(1)`.

    B (sequences) and S (positions) are symbolic sizes, S/tp is a rank's share of S, and `@tp:S(1)`
    says that mesh axis tp shards dimension 1. Raises TypeRuleError for an unknown dtype.
    """

    dtype: str
    shape: tuple[Dim, ...]
    layout: Layout = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise TypeRuleError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPES)}")

    def __str__(self) -> str:
        layout = ",".join(f"{axis}:{placement}" for axis, placement in self.layout)
        shape = ",".join(map(str, self.shape))
        return f"{self.dtype}[{shape}]" + (f"@{layout}" if layout else "")

    def with_shape(self, *shape: Dim) -> TensorType:
        """Return this type with another shape, given as sizes, and the same dtype and layout."""
        return replace(self, shape=shape)

    def with_placement(self, axis: str, placement: str) -> TensorType:
        """Return this type with another placement on one mesh axis: `S(dim)`, `P` or `R`."""
        layout = dict(self.layout) | {axis: placement}
        split = ((name, place) for name, place in layout.items() if place != "R")
        return replace(self, layout=tuple(sorted(split)))

    def placement(self, axis: str) -> str:
        """Return the placement on a mesh axis.

        `S(dim)`: sharded along a dimension; `P`: a partial sum; `R`: replicated.
        """
        return dict(self.layout).get(axis, "R")

    def elements(self, symbols: Mapping[str, int]) -> int:
        """Return the number of elements on one rank. symbols: size of each symbolic dimension."""
        count = 1
        for dim in self.shape:
            count *= symbols[dim] if isinstance(dim, str) else dim
        return count

    def nbytes(self, symbols: Mapping[str, int]) -> int:
        """Return the number of bytes on one rank. symbols: size of each symbolic dimension."""
        return self.elements(symbols) * DTYPES[self.dtype].itemsize

    @classmethod
    def parse(cls, text: str) -> TensorType:
        """Parse a type such as `bf16[B,S/tp,4096]@tp:S(1)`, as `str()` formats it.

        `f32[]` is a scalar. Raises TypeRuleError if the text is not a type or its dtype is unknown.
        """
        match = _TYPE.fullmatch(text.strip())
        if match is None:
            raise TypeRuleError(f"not a tensor type: {text!r}")
        dtype, shape, layout = match.groups()
        dims = [dim.strip() for dim in shape.split(",") if dim.strip()]
        placements = [part.partition(":") for part in layout.split(",")] if layout else []
        return cls(
            dtype,
            tuple(int(dim) if dim.isdigit() else dim for dim in dims),
            tuple((axis, placement) for axis, _, placement in placements),
        )


_TYPE = re.compile(r"(\w*)\[([^\]]*)\](?:@(\w+:(?:S\(\d+\)|P)(?:,\w+:(?:S\(\d+\)|P))*))?")

Types = TensorType | tuple[TensorType, ...]
"""Type of an op's result, or types of its results if it has several."""


def expect(condition: bool, message: str) -> None:
    """Raise TypeRuleError with `message` unless a condition of a typing rule holds."""
    if not condition:
        raise TypeRuleError(message)
