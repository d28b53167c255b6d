"""The Program: everything the passes rewrite. Layers are rolled — a block is held once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import prod

from torch import fx

from llamac.ir.graph import output_of, type_of
from llamac.ir.types import TensorType


@dataclass(frozen=True)
class Init:
    """Initial values of a canonical parameter: `normal` with `std`, `ones` or `zeros`."""

    kind: str
    std: float = 0.0

    def __str__(self) -> str:
        return f"normal({self.std!r})" if self.kind == "normal" else self.kind


@dataclass(frozen=True)
class Piece:
    """One canonical parameter, as rows (dim 0) of the parameter that holds it.

    copies: ranks that hold the same part, where there are more ranks than key heads.
    """

    name: str
    rows: int
    init: Init
    copies: int = 1

    def part(self, ranks: int) -> int:
        """Rows that each of `ranks` holds; the last rows of a vocabulary may be padding."""
        return -(-self.rows * self.copies // ranks)


@dataclass(frozen=True)
class Parameter:
    """One tensor the trainer holds. `*` in a name stands for the layer's number.

    `pieces` are the canonical parameters stacked in it along dim 0, in order: one with its own
    name, until `pack` puts several together. Checkpoints only ever know the pieces.
    """

    name: str
    type: TensorType
    pieces: tuple[Piece, ...]
    where: str = ""

    @property
    def per_layer(self) -> bool:
        return "*" in self.name

    def row_elements(self, mesh: Mapping[str, int]) -> int:
        """Elements of a canonical row; a rank may hold a part of each."""
        count = TensorType(self.type.dtype, self.type.shape[1:]).elements({})
        for axis, placement in self.type.layout:
            count *= 1 if placement == "S(0)" else mesh[axis]
        return count

    def held_rows(self, mesh: Mapping[str, int]) -> int:
        """Rows that a rank holds, from the pieces and the layout."""
        ranks = prod(mesh[axis] for axis, place in self.type.layout if place == "S(0)")
        return sum(piece.part(ranks) for piece in self.pieces)

    @property
    def packed(self) -> bool:
        return len(self.pieces) > 1


@dataclass(frozen=True)
class Buffer:
    """A constant table that regions read: `runtime.kernels.rope.rope_tables(**arguments)`."""

    name: str
    type: TensorType
    arguments: tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Region:
    """One part of the model: a forward graph and, once differentiated, a backward graph.

    saved: names of forward values (inputs included) kept from the forward to the backward pass.
    """

    name: str
    forward: fx.GraphModule
    backward: fx.GraphModule | None = None
    saved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """A model as the compiler sees it.

    regions: `embed`, `block`, `head` (the loss), `logits` (inference only) and what passes add.
    layers: the region each layer runs, in order. symbols: the sizes of B (sequences in a
    micro-batch), S (positions) and of parts of them. mesh: how many ranks each axis has.
    stages: how many layers each pipeline stage runs, where there are several. eos: the token that
    ends a document, where attention must not look past one; regions then read the constant
    `starts`, of `runtime.kernels.documents`. notes: what passes want their reader to know.
    """

    name: str
    symbols: Mapping[str, int]
    parameters: Mapping[str, Parameter]
    buffers: Mapping[str, Buffer]
    regions: Mapping[str, Region]
    layers: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    mesh: Mapping[str, int] = field(default_factory=dict)
    stages: tuple[int, ...] = ()
    eos: int | None = None

    def with_region(self, region: Region) -> Program:
        return replace(self, regions={**self.regions, region.name: region})

    def with_notes(self, *notes: str) -> Program:
        return replace(self, notes=(*self.notes, *notes))

    def copies(self, parameter: Parameter) -> int:
        """Tensors that this entry of the table stands for: one, or one per layer."""
        return len(self.layers) if parameter.per_layer else 1

    def summed(self, parameter: Parameter) -> tuple[str, ...]:
        """Return the mesh axes over which a parameter's gradient is still to be summed."""
        for region in self.regions.values():
            gradients = output_of(region.backward.graph) if region.backward else {}
            if parameter.name in gradients:
                layout = type_of(gradients[parameter.name]).layout
                return tuple(axis for axis, placement in layout if placement == "P")
        return ()

    def elements(self, parameter: Parameter) -> int:
        """Trained elements that this entry of the table stands for, over all ranks."""
        rows = sum(piece.rows for piece in parameter.pieces)
        return rows * parameter.row_elements(self.mesh) * self.copies(parameter)

    @property
    def layer_runs(self) -> list[tuple[str, int]]:
        """Return (region, number of layers) of each run of neighbouring layers with one region."""
        return [(name, len(list(run))) for name, run in groupby(self.layers)]

    @property
    def parameter_count(self) -> int:
        """Exact number of trained parameters."""
        return sum(map(self.elements, self.parameters.values()))
