"""The Program that passes rewrite. Layers are rolled: all layers of one kind share a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import prod

from torch import fx

from llamac.ir.graph import is_differentiable, output_of, placeholders, type_of
from llamac.ir.types import TensorType

RANDOM_INITS = ("normal", "uniform")
"""Kinds of initial values that are drawn from a distribution with a standard deviation."""


@dataclass(frozen=True)
class Init:
    """Initial values of a canonical parameter.

    kind: `normal`, `uniform`, `ones` or `zeros`.
    std: standard deviation of the distribution, for `normal` and `uniform`.
    """

    kind: str
    std: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}({self.std!r})" if self.kind in RANDOM_INITS else self.kind


@dataclass(frozen=True)
class Piece:
    """One canonical parameter, stored as rows (dim 0) of a packed parameter.

    name: canonical name. rows: full size along dim 0, over all ranks. init: initial values.
    copies: number of tensor-parallel ranks that hold each shard: 1, or more for keys and values if
    there are fewer key-value heads than ranks.
    """

    name: str
    rows: int
    init: Init
    copies: int = 1

    def rank_rows(self, ranks: int) -> int:
        """Return the number of rows on each of `ranks` ranks; on the last, some may be padding."""
        return -(-self.rows * self.copies // ranks)


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor of the trainer. `*` in a name stands for the layer's number.

    type: type of one rank's shard; rows of the last ranks may be padding.
    pieces: canonical parameters stacked in it along dim 0, in order; a single one, with the same
    name, before `pack`. Checkpoints contain only pieces.
    where: spec location `file:line` that it comes from.
    trainable: whether it is trained; a frozen parameter has no gradient and no optimizer state.
    """

    name: str
    type: TensorType
    pieces: tuple[Piece, ...]
    where: str = ""
    trainable: bool = True

    @property
    def per_layer(self) -> bool:
        """Return whether each layer has a tensor of its own."""
        return "*" in self.name

    def row_elements(self, mesh: Mapping[str, int]) -> int:
        """Return the number of elements of a full row. mesh: number of ranks on each axis."""
        count = TensorType(self.type.dtype, self.type.shape[1:]).elements({})
        for axis, placement in self.type.layout:
            count *= 1 if placement == "S(0)" else mesh[axis]
        return count

    def local_rows(self, mesh: Mapping[str, int]) -> int:
        """Return the size of dim 0 on a rank, with padding. mesh: number of ranks on each axis."""
        ranks = prod(mesh[axis] for axis, place in self.type.layout if place == "S(0)")
        return sum(piece.rank_rows(ranks) for piece in self.pieces)

    @property
    def packed(self) -> bool:
        """Return whether several canonical parameters are stacked in this one."""
        return len(self.pieces) > 1


@dataclass(frozen=True)
class Buffer:
    """A constant table that regions read: `rope_cos` or `rope_sin`, of rotary embeddings.

    arguments: (keyword, value) pairs for `runtime.kernels.rope.rope_tables`, which computes both.
    """

    name: str
    type: TensorType
    arguments: tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Region:
    """A part of the model: a forward graph and, once differentiated, a backward graph.

    backward: graph that returns gradients by name; None before differentiation.
    saved: names of the forward values, inputs included, that are saved for the backward pass.
    """

    name: str
    forward: fx.GraphModule
    backward: fx.GraphModule | None = None
    saved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """The model of one rank in intermediate representation.

    parameters: the parameter table, by name.
    buffers: constant tables that regions read, by name.
    regions: `embed`, `block`, `head` (the loss), `logits` (inference only) and those that passes
        add.
    layers: name of the region that each layer runs, in order.
    symbols: sizes of B (sequences per micro-batch), S (positions) and fractions such as S/tp.
    mesh: number of ranks on each axis.
    stages: number of layers of each pipeline stage; empty without pipeline parallelism.
    eos: id of the end-of-document token if attention is masked between documents; regions then
        read the constant `starts` of `runtime.kernels.documents`.
    notes: messages of passes for the user.
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
        """Return the Program with a region added, or replaced if it has one of that name."""
        return replace(self, regions={**self.regions, region.name: region})

    def with_notes(self, *notes: str) -> Program:
        """Return the Program with messages for the user added."""
        return replace(self, notes=(*self.notes, *notes))

    def needs_backward(self, region: Region) -> bool:
        """Return whether a region has a trained weight or an input with a gradient."""
        nodes = placeholders(region.forward.graph, "input", "param")
        trained = (node for node in nodes if node.meta.get("param") not in self.frozen)
        return any(map(is_differentiable, trained))

    def copies(self, parameter: Parameter) -> int:
        """Return the number of tensors that a `Parameter` stands for: one per layer, or one."""
        return len(self.layers) if parameter.per_layer else 1

    def reduction_axes(self, parameter: Parameter) -> tuple[str, ...]:
        """Return the mesh axes over which the trainer must sum a parameter's gradient.

        On these axes the gradient that the backward graph returns is a partial sum. Empty if no
        backward graph returns one.
        """
        for region in self.regions.values():
            gradients = output_of(region.backward.graph) if region.backward else {}
            if parameter.name in gradients:
                layout = type_of(gradients[parameter.name]).layout
                return tuple(axis for axis, placement in layout if placement == "P")
        return ()

    def elements(self, parameter: Parameter) -> int:
        """Return the number of elements of a parameter over all layers and ranks.

        Copies of a shard on several ranks count once, and padding does not count.
        """
        rows = sum(piece.rows for piece in parameter.pieces)
        return rows * parameter.row_elements(self.mesh) * self.copies(parameter)

    @property
    def layer_runs(self) -> list[tuple[str, int]]:
        """Runs of consecutive layers with the same region, in order: (region, number of layers)."""
        return [(name, len(list(run))) for name, run in groupby(self.layers)]

    @property
    def parameter_count(self) -> int:
        """Exact number of parameters of the model over all ranks, frozen ones included."""
        return sum(map(self.elements, self.parameters.values()))

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the parameters that are not trained."""
        return frozenset(name for name, one in self.parameters.items() if not one.trainable)
