"""add, mul, scale (by a scalar tensor) and scale_by (a constant)."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _infer(x: TensorType, y: TensorType) -> TensorType:
    expect(x == y, f"{x} and {y} differ")
    return x


def _vjp_add(_b: GradientBuilder, _node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    return d_y, d_y


def _vjp_mul(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    x, y = node.args
    d_x = b.op(mul, d_y, b.primal(y), name=b.name(x))
    return d_x, b.op(mul, d_y, b.primal(x), name=b.name(y))


def _infer_scale(x: TensorType, factor: TensorType) -> TensorType:
    expect(factor.shape == (), f"the factor must be a scalar, not {factor}")
    return x


add = Op("add", _infer, operator.add, vjp=_vjp_add, emit=lambda x, y: f"{x} + {y}", dims="*,*->*")
mul = Op(
    "mul", _infer, operator.mul, vjp=_vjp_mul, emit=lambda x, y: f"{x} * {y}", dims="bsf,bsf->bsf"
)
scale_by = Op(
    "scale_by",
    lambda x, *, factor: x,
    lambda x, factor: x * factor,
    vjp=lambda b, node, d_y: (
        b.op(scale_by, d_y, name=b.name(node.args[0]), factor=node.kwargs["factor"]),
    ),
    emit=lambda x, factor: f"{x} * {factor}",
    dims="*->*",
)
scale = Op(
    "scale",
    _infer_scale,
    operator.mul,
    emit=lambda x, factor: f"{x} * {factor}",
    dims="*,->*",
)
