"""context: splits every sequence over ranks, which attend to all of it (context parallelism).

Ops other than attention treat positions independently, so only their types change. Keys and values
are gathered over `cp` and put into the order of positions, since each rank has an early and a late
chunk of the sequence (see `runtime/distributed/context_parallel.py`). A rank's loss and gradients
are sums over its own positions; the data-parallel reduction also runs over `cp`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import fx

from llamac.ir.graph import attributes, type_of
from llamac.ir.program import Program, Region
from llamac.ir.types import TensorType
from llamac.ops.attention import attention
from llamac.ops.collectives import all_gather, take_part
from llamac.ops.context import context_attention, position_order, rank_order
from llamac.ops.embedding import add_positions
from llamac.ops.linear import linear
from llamac.passes.rebuild import Rebuild, result_names

AXIS = "cp"


@dataclass(frozen=True)
class Context:
    """Pass that applies context parallelism.

    ranks: number of ranks that split each sequence; 1 leaves the Program unchanged.
    """

    ranks: int
    name: str = "context"

    def apply(self, program: Program) -> Program:
        if self.ranks == 1:
            return program
        buffers = {
            name: replace(buffer, type=_rank_type(buffer.type))
            for name, buffer in program.buffers.items()
        }
        regions = {
            name: replace(region, forward=_ContextRebuild(region, self.ranks).rebuild())
            for name, region in program.regions.items()
        }
        return replace(
            program,
            symbols={**program.symbols, f"S/{AXIS}": program.symbols["S"] // self.ranks},
            buffers=buffers,
            regions=regions,
            mesh={**program.mesh, AXIS: self.ranks},
        )


def _rank_type(kind: TensorType) -> TensorType:
    """Return the type of a rank's part of a value with positions."""
    if "S" not in kind.shape:
        return kind
    dim = kind.shape.index("S")
    shape = (*kind.shape[:dim], f"S/{AXIS}", *kind.shape[dim + 1 :])
    return kind.with_shape(*shape).with_placement(AXIS, f"S({dim})")


class _ContextRebuild(Rebuild):
    def __init__(self, region: Region, ranks: int) -> None:
        super().__init__(region)
        self.ranks = ranks

    def placeholder_type(self, node: fx.Node) -> TensorType:
        return _rank_type(type_of(node))

    def _linear(self, node: fx.Node) -> fx.Node:
        y = self.copy_op(node)
        return (
            self._gather_in_order(y) if self.region.name == "logits" else y
        )  # values that leave the region

    def _attention(self, node: fx.Node) -> Any:
        q, k, v = self.new(node)  # documents that share sequences are refused with these ranks
        whole = (self._gather_in_order(value) for value in (k, v))
        options = {**attributes(node), "axis": AXIS, "size": self.ranks}
        return self.build.op(context_attention, q, *whole, name=result_names(node), **options)

    def _gather_in_order(self, x: fx.Node) -> fx.Node:
        """Return a value gathered over all ranks, with its positions in order."""
        options: dict[str, Any] = {"dim": 1, "size": self.ranks}
        gathered = self.build.op(all_gather, x, name=f"{x.name}_gathered", axis=AXIS, **options)
        return self.build.op(position_order, gathered, name=f"{x.name}_whole", **options)

    def _add_positions(self, node: fx.Node) -> fx.Node:
        x, table = self.new(node)
        options: dict[str, Any] = {"dim": 0, "size": self.ranks}
        ordered = self.build.op(rank_order, table, name="positions_by_rank", **options)
        rank_rows = self.build.op(take_part, ordered, name="positions", axis=AXIS, **options)
        return self.build.op(add_positions, x, rank_rows, name=node.name)

    rules: ClassVar[Mapping[str, Callable[..., Any]]] = {
        linear.name: _linear,
        attention.name: _attention,
        add_positions.name: _add_positions,
    }
