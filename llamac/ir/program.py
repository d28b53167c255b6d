"""The Program, which passes rewrite. Layers are rolled: it has one graph per kind of block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import prod

from torch import fx

from llamac.ir.graph import is_differentiable, output_of, placeholders, type_of
from llamac.ir.types import TensorType

DRAWN = ("normal", "uniform")
"""Kinds of initial values that are drawn at random, with a standard deviation."""


@dataclass(frozen=True)
class Init:
    """Initial values of a canonical parameter: `normal` or `uniform` (with `std`), `ones`, `zeros`.

    std: standard deviation.
    """

    kind: str
    std: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}({self.std!r})" if self.kind in DRAWN else self.kind


@dataclass(frozen=True)
class Piece:
    """One canonical parameter, stored as rows (dim 0) of a packed parameter.

    name: canonical name. rows: its full size along dim 0. copies: number of ranks with the same
    part; more than 1 if there are more tensor-parallel ranks than key heads.
    """

    name: str
    rows: int
    init: Init
    copies: int = 1

    def part(self, ranks: int) -> int:
        """Return the rows on one of `ranks` ranks; the last rows of a vocabulary may be padding."""
        return -(-self.rows * self.copies // ranks)


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor of the trainer. `*` in a name stands for the layer's number.

    pieces: the canonical parameters stacked in it along dim 0, in order; before `pack`, one of the
    same name. Checkpoints contain pieces only. trainable: whether it is trained; a frozen parameter
    has no gradient and no optimizer state. where: its source, `file:line` of the spec.
    """

    name: str
    type: TensorType
    pieces: tuple[Piece, ...]
    where: str = ""
    trainable: bool = True

    @property
    def per_layer(self) -> bool:
        """Return whether each layer has a tensor of this entry."""
        return "*" in self.name

    def row_elements(self, mesh: Mapping[str, int]) -> int:
        """Return the elements of a full row. mesh: number of ranks on each axis."""
        count = TensorType(self.type.dtype, self.type.shape[1:]).elements({})
        for axis, placement in self.type.layout:
            count *= 1 if placement == "S(0)" else mesh[axis]
        return count

    def held_rows(self, mesh: Mapping[str, int]) -> int:
        """Return the rows (size of dim 0) on one rank. mesh: number of ranks on each axis."""
        ranks = prod(mesh[axis] for axis, place in self.type.layout if place == "S(0)")
        return sum(piece.part(ranks) for piece in self.pieces)

    @property
    def packed(self) -> bool:
        """Return whether several canonical parameters are stacked in this one."""
        return len(self.pieces) > 1


@dataclass(frozen=True)
class Buffer:
    """A constant table that regions read: `rope_cos` or `rope_sin`, of rotary embeddings.

    arguments: (keyword, value) pairs of the call of `runtime.kernels.rope.rope_tables` that
    computes both.
    """

    name: str
    type: TensorType
    arguments: tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Region:
    """A part of the model: a forward graph and, once differentiated, a backward graph.

    saved: names of forward values (inputs included) kept from the forward to the backward pass.
    """

    name: str
    forward: fx.GraphModule
    backward: fx.GraphModule | None = None
    saved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """The model of one rank in intermediate representation.

    regions: `embed`, `block`, `head` (the loss), `logits` (inference only) and those that passes
        add.
    layers: the region that each layer runs, in order.
    symbols: the sizes of B (sequences per micro-batch), S (positions) and fractions of them.
    mesh: the number of ranks on each axis.
    stages: layers per pipeline stage; empty without pipeline parallelism.
    eos: id of the end-of-document token if attention is masked between documents; regions then
        read the constant `starts` of `runtime.kernels.documents`.
    notes: messages of passes to the user.
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
        """Return the Program with a region added, or in place of the one of the same name."""
        return replace(self, regions={**self.regions, region.name: region})

    def with_notes(self, *notes: str) -> Program:
        """Return the Program with messages to the user added."""
        return replace(self, notes=(*self.notes, *notes))

    def learns(self, region: Region) -> bool:
        """Return whether a region has a backward pass to run: a trained weight or a float input."""
        nodes = placeholders(region.forward.graph, "input", "param")
        owed = (node for node in nodes if node.meta.get("param") not in self.frozen)
        return any(map(is_differentiable, owed))

    def copies(self, parameter: Parameter) -> int:
        """Return the number of tensors that an entry stands for: one, or one per layer."""
        return len(self.layers) if parameter.per_layer else 1

    def summed(self, parameter: Parameter) -> tuple[str, ...]:
        """Return the mesh axes over which the trainer must sum a parameter's gradient.

        On these axes the backward graph's gradient is a partial sum.
        """
        for region in self.regions.values():
            gradients = output_of(region.backward.graph) if region.backward else {}
            if parameter.name in gradients:
                layout = type_of(gradients[parameter.name]).layout
                return tuple(axis for axis, placement in layout if placement == "P")
        return ()

    def elements(self, parameter: Parameter) -> int:
        """Return the elements of an entry over all layers and ranks, without copies and padding."""
        rows = sum(piece.rows for piece in parameter.pieces)
        return rows * parameter.row_elements(self.mesh) * self.copies(parameter)

    @property
    def layer_runs(self) -> list[tuple[str, int]]:
        """Return (region, number of layers) for each run of consecutive layers of one region."""
        return [(name, len(list(run))) for name, run in groupby(self.layers)]

    @property
    def parameter_count(self) -> int:
        """Return the model's exact number of parameters over all ranks, frozen ones included."""
        return sum(map(self.elements, self.parameters.values()))

    @property
    def frozen(self) -> frozenset[str]:
        """Return the names of the parameters that are not trained."""
        return frozenset(name for name, one in self.parameters.items() if not one.trainable)
