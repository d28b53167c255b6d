"""Collectives over a mesh axis and their adjoints. Only these ops change a value's layout.

Layouts: S(dim) sharded along a dimension, P partial sum, R replicated (see `llamac.ir.types`).

    op              layout        adjoint
    all_gather      S(dim) → R    reduce_scatter
    reduce_scatter  P → S(dim)    all_gather
    all_reduce      P → R         identity
    broadcast       R → R         all_reduce, since each rank uses the value differently and
computes a part of its gradient (Megatron's f, Shoeybi et al. 2019, fig. 3)
    take_part       R → S(dim)    place_part: the rank's shard surrounded by zeros, a partial sum

take_part and place_part transfer nothing; the rank only selects its shard or pads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from llamac.ir.graph import attributes
from llamac.ir.op import Op
from llamac.ir.types import Dim, TensorType, expect
from llamac.runtime.distributed import collectives

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def full_dim_size(dim: Dim, size: int, axis: str) -> Dim:
    """Return a dimension's size over the `size` ranks of mesh axis `axis`, given that on one rank.

    A number is multiplied by `size`; a symbol loses its divisor: `S/tp` → `S`.
    """
    return dim.removesuffix(f"/{axis}") if isinstance(dim, str) else dim * size


def shard_size(dim: Dim, size: int, axis: str) -> Dim:
    """Return a dimension's size on one of `size` ranks: `S` → `S/tp`, or 8192 → 1024 over 8 ranks.

    axis: mesh axis of the ranks. Raises TypeRuleError if a number does not divide.
    """
    if isinstance(dim, str):
        return f"{dim}/{axis}" if size > 1 else dim
    expect(dim % size == 0, f"{dim} does not divide over {size} ranks of {axis}")
    return dim // size


def _resized(x: TensorType, dim: int, size: Dim) -> TensorType:
    return x.with_shape(*x.shape[:dim], size, *x.shape[dim + 1 :])


def _expect_placement(x: TensorType, axis: str, placement: str) -> None:
    found = x.placement(axis)
    expect(found == placement, f"on {axis} the operand must be {placement}, not {found}")


def _infer_all_gather(x: TensorType, *, axis: str, dim: int, size: int) -> TensorType:
    _expect_placement(x, axis, f"S({dim})")
    return _resized(x, dim, full_dim_size(x.shape[dim], size, axis)).with_placement(axis, "R")


def _infer_reduce_scatter(x: TensorType, *, axis: str, dim: int, size: int) -> TensorType:
    _expect_placement(x, axis, "P")
    return _resized(x, dim, shard_size(x.shape[dim], size, axis)).with_placement(axis, f"S({dim})")


def _infer_all_reduce(x: TensorType, *, axis: str) -> TensorType:
    _expect_placement(x, axis, "P")
    return x.with_placement(axis, "R")


def _infer_broadcast(x: TensorType, *, axis: str) -> TensorType:
    _expect_placement(x, axis, "R")
    return x


def _infer_take_part(x: TensorType, *, axis: str, dim: int, size: int) -> TensorType:
    _expect_placement(x, axis, "R")
    return _resized(x, dim, shard_size(x.shape[dim], size, axis)).with_placement(axis, f"S({dim})")


def _infer_place_part(x: TensorType, *, axis: str, dim: int, size: int) -> TensorType:
    _expect_placement(x, axis, f"S({dim})")
    return _resized(x, dim, full_dim_size(x.shape[dim], size, axis)).with_placement(axis, "P")


def _take_part(x: Tensor, axis: str, dim: int, size: int) -> Tensor:
    return collectives.take_part(x, axis, dim)


def _place_part(x: Tensor, axis: str, dim: int, size: int) -> Tensor:
    return collectives.place_part(x, axis, dim)


def _vjp_take_part(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    return (b.op(place_part, d_y, name=b.name(node.args[0]), **attributes(node)),)


def _all_gather(x: Tensor, axis: str, dim: int, size: int) -> Tensor:
    return collectives.all_gather(x, axis, dim)


def _reduce_scatter(x: Tensor, axis: str, dim: int, size: int) -> Tensor:
    return collectives.reduce_scatter(x, axis, dim)


def _vjp_all_gather(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    return (b.op(reduce_scatter, d_y, name=b.name(node.args[0]), **attributes(node)),)


def _vjp_reduce_scatter(
    b: GradientBuilder, node: fx.Node, d_y: fx.Node
) -> tuple[fx.Node | None, ...]:
    return (b.op(all_gather, d_y, name=b.name(node.args[0]), **attributes(node)),)


def _vjp_broadcast(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    return (b.op(all_reduce, d_y, name=b.name(node.args[0]), **attributes(node)),)


all_gather = Op(
    "all_gather",
    _infer_all_gather,
    _all_gather,
    vjp=_vjp_all_gather,
    emit=lambda x, axis, dim, size: f"all_gather({x}, {axis}, dim={dim})",
)
reduce_scatter = Op(
    "reduce_scatter",
    _infer_reduce_scatter,
    _reduce_scatter,
    vjp=_vjp_reduce_scatter,
    emit=lambda x, axis, dim, size: f"reduce_scatter({x}, {axis}, dim={dim})",
    cost="save",
)
all_reduce = Op(
    "all_reduce",
    _infer_all_reduce,
    collectives.all_reduce,
    vjp=lambda _b, _node, d_y: (d_y,),
    cost="save",
)
broadcast = Op(
    "broadcast",
    _infer_broadcast,
    lambda x, axis: x,
    vjp=_vjp_broadcast,
    emit=lambda x, axis: x,
    cost="view",
)
take_part = Op(
    "take_part",
    _infer_take_part,
    _take_part,
    vjp=_vjp_take_part,
    emit=lambda x, axis, dim, size: f"take_part({x}, {axis}, dim={dim})",
)
place_part = Op(
    "place_part",
    _infer_place_part,
    _place_part,
    emit=lambda x, axis, dim, size: f"place_part({x}, {axis}, dim={dim})",
)
