"""shard: Megatron's tensor parallelism, with or without sequence parallelism.

    column   wq wk wv w1 w3, vocabulary    each rank has some rows: heads, features or tokens
    row      wo w2                         each rank has some columns and computes a partial sum

A LoRA adapter's B is split like the rows of a column-parallel linear, its A like the columns of a
row-parallel one; the other half is replicated, and its gradient is a partial sum that the trainer
reduces once per step, so adapters add no collective.

With sequence parallelism, the residual stream is all-gathered before column-parallel linears and
reduce-scattered after row-parallel ones, so that norms and residual additions process only the
rank's positions (Korthikanti et al. 2022, fig. 5). Without it, an all_reduce follows row-parallel
linears (Shoeybi et al. 2019, fig. 3). The pass runs before `differentiate`, so that the collectives
of the backward graph are the adjoints of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import fx

from llamac.ir.graph import attributes, is_op, op_of, operands, ops_in, results, type_of
from llamac.ir.program import Parameter, Piece, Program, Region
from llamac.ir.types import TensorType
from llamac.ops.attention import attention
from llamac.ops.collectives import (
    all_gather,
    all_reduce,
    broadcast,
    reduce_scatter,
    shard_size,
    take_part,
)
from llamac.ops.context import context_attention
from llamac.ops.cross_entropy import cross_entropy, linear_cross_entropy
from llamac.ops.elementwise import scale_by
from llamac.ops.embedding import add_positions, embedding
from llamac.ops.linear import add_bias, add_linear, linear
from llamac.ops.log_probability import (
    linear_log_probability,
    log_probability,
    parallel_linear_log_probability,
    parallel_log_probability,
)
from llamac.ops.norm import head_rms_norm
from llamac.ops.rope import rope
from llamac.ops.views import split, split_heads
from llamac.ops.vocab_parallel import (
    drop_padding,
    parallel_cross_entropy,
    parallel_embedding,
    parallel_linear_cross_entropy,
)
from llamac.passes.rebuild import Rebuild

AXIS = "tp"
STREAM = "x"  # name of a region's input that is the residual stream
COLUMN = ("wq", "wk", "wv", "wqkv", "w1", "w3", "w13", "tok_embeddings", "output")
ROW = ("wo", "w2")
"""Last part of the names of weights that are split along dim 0 (`COLUMN`) and dim 1 (`ROW`)."""

PARALLEL = {
    cross_entropy.name: parallel_cross_entropy,
    linear_cross_entropy.name: parallel_linear_cross_entropy,
    log_probability.name: parallel_log_probability,
    linear_log_probability.name: parallel_linear_log_probability,
}
"""Vocabulary-parallel form of each loss, by the name of its op."""


@dataclass(frozen=True)
class Shard:
    """Pass that applies tensor parallelism.

    tensor: number of ranks; 1 leaves the Program unchanged.
    sequence: whether to apply sequence parallelism as well.
    """

    tensor: int
    sequence: bool
    name: str = "shard"

    def apply(self, program: Program) -> Program:
        if self.tensor == 1:
            return program
        copies = max(1, self.tensor // _kv_heads(program))
        parameters = {
            name: _rank_parameter(parameter, self.tensor, copies)
            for name, parameter in program.parameters.items()
        }
        positions = "S/cp" if "S/cp" in program.symbols else "S"
        symbols = dict(program.symbols)
        if self.sequence:
            symbols[f"{positions}/{AXIS}"] = symbols[positions] // self.tensor
        regions = {
            name: replace(
                region,
                forward=_ShardRebuild(region, parameters, self.tensor, self.sequence).rebuild(),
            )
            for name, region in program.regions.items()
        }
        mesh = {**program.mesh, AXIS: self.tensor}
        return replace(program, parameters=parameters, symbols=symbols, regions=regions, mesh=mesh)


def _kv_heads(program: Program) -> int:
    layer = program.regions[program.layers[0]].forward.graph
    return next(
        int(type_of(operands(node)[1]).shape[2])
        for node in ops_in(layer)
        if is_op(node, attention, context_attention)
    )


def _split_dim(name: str) -> int | None:
    """Return the dimension along which a parameter is sharded, or None if it is replicated."""
    last, _, half = name.rpartition(".")[2].partition("_lora_")
    if last.removesuffix("_bias") in COLUMN:
        return None if half == "a" else 0
    return 1 if last in ROW and half != "b" else None


def _rank_parameter(parameter: Parameter, ranks: int, kv_copies: int) -> Parameter:
    """Return the parameter-table entry of one rank."""
    dim, kind = _split_dim(parameter.name), parameter.type
    if dim is None:
        return parameter
    if dim == 1:
        kind = kind.with_shape(kind.shape[0], shard_size(kind.shape[1], ranks, AXIS))
        return replace(parameter, type=kind.with_placement(AXIS, "S(1)"))
    pieces = tuple(
        replace(piece, copies=kv_copies if _is_kv(piece) else 1) for piece in parameter.pieces
    )
    rows = sum(piece.rank_rows(ranks) for piece in pieces)
    kind = kind.with_shape(rows, *kind.shape[1:]).with_placement(AXIS, "S(0)")
    return replace(parameter, type=kind, pieces=pieces)


def _is_kv(piece: Piece) -> bool:
    last = piece.name.rpartition(".")[2]
    return last.removesuffix("_bias").removesuffix("_lora_b") in ("wk", "wv")


# The segments along a sharded dimension, in order: (full size, size on one rank).
Segments = tuple[tuple[int, int], ...]


class _ShardRebuild(Rebuild):
    """Rebuilds one region with the types and collectives of one rank."""

    def __init__(
        self, region: Region, parameters: Mapping[str, Parameter], ranks: int, sequence: bool
    ) -> None:
        super().__init__(region)
        self.parameters, self.ranks, self.sequence = parameters, ranks, sequence
        self.gathered: dict[
            fx.Node, fx.Node
        ] = {}  # old value of the residual stream → its gathered form
        self.segments: dict[fx.Node, Segments] = {}  # by old value
        # Partial sums that an adapter adds to before they are reduced → the bias added afterwards.
        self.partial_sums: dict[fx.Node, list[fx.Node]] = {}

    def placeholder_type(self, node: fx.Node) -> TensorType:
        kind = type_of(node)
        if node.meta["role"] == "param":
            return self.parameters[node.meta["param"]].type
        if node.name != STREAM or not self.sequence:
            return kind
        batch, positions, *rest = kind.shape
        kind = kind.with_shape(batch, shard_size(positions, self.ranks, AXIS), *rest)
        return kind.with_placement(AXIS, "S(1)")

    # -- between the stream and the ranks' parts ------------------------------------------------

    def _gather(self, value: fx.Node) -> fx.Node:
        """Return a value of the residual stream, gathered over ranks."""
        if value not in self.gathered:
            x = self.values[value]
            if self.sequence:
                options = {"axis": AXIS, "dim": 1, "size": self.ranks}
                whole = self.build.op(all_gather, x, name=f"{value.name}_gathered", **options)
            else:
                whole = self.build.op(broadcast, x, name=f"{value.name}_shared", axis=AXIS)
            self.gathered[value] = whole
        return self.gathered[value]

    def _reduce(self, partial: fx.Node, name: str) -> fx.Node:
        """Reduce a partial sum over ranks, scattering positions under sequence parallelism."""
        if self.sequence:
            options = {"axis": AXIS, "dim": 1, "size": self.ranks}
            return self.build.op(reduce_scatter, partial, name=name, **options)
        return self.build.op(all_reduce, partial, name=name, axis=AXIS)

    # -- ops that read or make what the ranks share ---------------------------------------------

    def _linear(self, node: fx.Node) -> fx.Node:
        x, weight, *bias = operands(node)
        parameter = self.parameters[weight.meta["param"]]
        if parameter.type.placement(AXIS) == "S(1)":
            return self._row_linear(node, x, weight, bias)
        ranks = self.ranks if parameter.type.placement(AXIS) == "S(0)" else 1
        self.segments[node] = tuple((p.rows, p.rank_rows(ranks)) for p in parameter.pieces)
        rest = (self.values[value] for value in (weight, *bias))
        y = self.build.op(linear, self._gather(x), *rest, name=node.name)
        if self.region.name == "logits":
            return self._gathered_logits(y, node)
        return y

    def _row_linear(
        self, node: fx.Node, x: fx.Node, weight: fx.Node, bias: list[fx.Node]
    ) -> fx.Node:
        new_x, new_weight = self.values[x], self.values[weight]
        partial = self.build.op(linear, new_x, new_weight, name=f"{node.name}_partial")
        if any(is_op(reader, add_linear, scale_by) for reader in node.users):
            self.partial_sums[node] = bias
            return partial
        return self._row_sum(node, partial, bias)

    def _add_linear(self, node: fx.Node) -> fx.Node:
        y, *_ = operands(node)
        if y in self.partial_sums:
            partial = self.build.op(add_linear, *self.new(node), name=f"{node.name}_partial")
            return self._row_sum(node, partial, self.partial_sums[y])
        self.segments[node] = self.segments[y]
        return self.copy_op(node)

    def _row_sum(self, node: fx.Node, partial: fx.Node, bias: list[fx.Node]) -> fx.Node:
        if not bias:
            return self._reduce(partial, node.name)
        summed = self._reduce(partial, f"{node.name}_summed")
        return self.build.op(add_bias, summed, self.values[bias[0]], name=node.name)

    def _gathered_logits(self, logits: fx.Node, node: fx.Node) -> fx.Node:
        options = {"axis": AXIS, "dim": 2, "size": self.ranks}
        padded = self.build.op(all_gather, logits, name="logits_gathered", **options)
        return self.build.op(
            drop_padding, padded, name="logits_whole", size=type_of(node).shape[-1]
        )

    def _split_heads(self, node: fx.Node) -> fx.Node:
        (x,), size = operands(node), attributes(node)["head_dim"]
        segments = self.segments[x]
        self.segments[node] = tuple((whole // size, held // size) for whole, held in segments)
        return self.copy_op(node)

    def _rope(self, node: fx.Node) -> fx.Node:
        segments = self.segments[node] = self.segments[operands(node)[0]]
        heads = attributes(node).get("heads")
        return self.copy_op(
            node, **({} if heads is None else {"heads": _rank_size(segments, heads)})
        )

    def _head_rms_norm(self, node: fx.Node) -> fx.Node:
        self.segments[node] = self.segments[operands(node)[0]]
        return self.copy_op(node)

    def _scale_by(self, node: fx.Node) -> fx.Node:
        (x,) = operands(node)
        if x not in self.partial_sums:
            self.segments[node] = self.segments[x]
        return self.copy_op(node)

    def _split(self, node: fx.Node) -> Any:
        remaining, sizes = list(self.segments[operands(node)[0]]), []
        for size, value in zip(attributes(node)["sizes"], results(node), strict=True):
            sizes.append(_rank_size(tuple(remaining), size))
            assert value is not None
            self.segments[value] = ((size, sizes[-1]),)
            while size:
                size -= remaining.pop(0)[0]
        return self.copy_op(node, sizes=tuple(sizes))

    def _embedding(self, node: fx.Node) -> fx.Node:
        tokens, table = (self.values[value] for value in operands(node))
        partial = self.build.op(
            parallel_embedding, tokens, table, axis=AXIS, name=f"{node.name}_partial"
        )
        return self._reduce(partial, node.name)

    def _add_positions(self, node: fx.Node) -> fx.Node:
        x, table = (self.values[value] for value in operands(node))
        if self.sequence:
            options = {"axis": AXIS, "dim": 0, "size": self.ranks}
            table = self.build.op(take_part, table, name="positions", **options)
        return self.build.op(add_positions, x, table, name=node.name)

    def _projected_loss(self, node: fx.Node) -> fx.Node:
        x, weight, labels = operands(node)
        return self.build.op(
            PARALLEL[op_of(node).name],
            self._gather(x),
            self.values[weight],
            self.values[labels],
            name=node.name,
            **attributes(node),
            axis=AXIS,
            vocab_size=int(type_of(weight).shape[0]),
        )

    def _loss(self, node: fx.Node) -> fx.Node:
        logits, labels = operands(node)
        return self.build.op(
            PARALLEL[op_of(node).name],
            self.values[logits],
            self.values[labels],
            name=node.name,
            axis=AXIS,
            vocab_size=int(type_of(logits).shape[-1]),
        )

    rules: ClassVar[Mapping[str, Callable[..., Any]]] = {
        linear.name: _linear,
        add_linear.name: _add_linear,
        split_heads.name: _split_heads,
        head_rms_norm.name: _head_rms_norm,
        scale_by.name: _scale_by,
        rope.name: _rope,
        split.name: _split,
        embedding.name: _embedding,
        add_positions.name: _add_positions,
        linear_cross_entropy.name: _projected_loss,
        linear_log_probability.name: _projected_loss,
        cross_entropy.name: _loss,
        log_probability.name: _loss,
    }


def _rank_size(segments: Segments, whole: int) -> int:
    """Return a rank's share of the first `whole` elements along a sharded dimension."""
    rows = 0
    for size, rank_size in segments:
        if whole <= 0:
            break
        whole -= size
        rows += rank_size
    assert whole == 0, "a split begins or ends inside a parameter"
    return rows
