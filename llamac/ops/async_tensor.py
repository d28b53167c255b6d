"""Ops that combine a matmul with the all-gather before it or the reduce-scatter after it.

The transfer over positions is pipelined with the matmul. These ops are inserted after
differentiation and have no vjp rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from llamac.ir.graph import is_op
from llamac.ir.layout import with_layouts
from llamac.ir.op import Op
from llamac.ir.types import TensorType
from llamac.ops.collectives import all_gather, reduce_scatter
from llamac.ops.linear import linear, linear_input_gradient

POSITIONS = 1
"""Dimension of activations [B, S, D] along which they are sharded."""


def _runtime(name: str) -> Callable[..., Any]:
    """Return a function of `llamac.runtime.distributed.async_tensor`, imported on its first call.

    The import loads torch's compiler, which takes most of a second that a plan does not need.
    """

    def run(x: Any, weight: Any, axis: str, size: int) -> Any:
        from llamac.runtime.distributed import async_tensor

        return getattr(async_tensor, name)(x, weight, axis)

    run.__name__, run.__module__ = name, "llamac.runtime.distributed.async_tensor"
    return run


def _define_gather_matmul(matmul: Op, name: str, results: tuple[str, str]) -> Op:
    def infer(
        x: TensorType, weight: TensorType, *, axis: str, size: int
    ) -> tuple[TensorType, TensorType]:
        gathered = all_gather.infer(x, axis=axis, dim=POSITIONS, size=size)
        assert isinstance(gathered, TensorType)
        return gathered, _infer_matmul(matmul, gathered, weight)

    return Op(
        name,
        infer,
        _runtime(name),
        flops=lambda x, weight, axis, size: size * matmul.flops(x, weight),
        emit=lambda x, weight, axis, size: f"{name}({x}, {weight}, {axis})",
        cost="save",
        results=results,
    )


def _define_matmul_scatter(matmul: Op, name: str) -> Op:
    def infer(x: TensorType, weight: TensorType, *, axis: str, size: int) -> TensorType:
        partial = _infer_matmul(matmul, x, weight)
        scattered = reduce_scatter.infer(partial, axis=axis, dim=POSITIONS, size=size)
        assert isinstance(scattered, TensorType)
        return scattered

    return Op(
        name,
        infer,
        _runtime(name),
        flops=lambda x, weight, axis, size: matmul.flops(x, weight),
        emit=lambda x, weight, axis, size: f"{name}({x}, {weight}, {axis})",
        cost="save",
    )


def _infer_matmul(matmul: Op, x: TensorType, weight: TensorType) -> TensorType:
    assert matmul.dims is not None
    found = with_layouts(matmul.dims, (x, weight), matmul.infer(x, weight))
    assert isinstance(found, TensorType)
    return found


gather_linear = _define_gather_matmul(linear, "gather_linear", ("gathered", "y"))
gather_input_gradient = _define_gather_matmul(
    linear_input_gradient, "gather_input_gradient", ("gathered", "d_x")
)
linear_scatter = _define_matmul_scatter(linear, "linear_scatter")
input_gradient_scatter = _define_matmul_scatter(linear_input_gradient, "input_gradient_scatter")

WITH_GATHER = {linear: gather_linear, linear_input_gradient: gather_input_gradient}
"""Op that combines an all-gather with the matmul after it, by the matmul's op."""

WITH_SCATTER = {linear: linear_scatter, linear_input_gradient: input_gradient_scatter}
"""Op that combines a matmul with the reduce-scatter after it, by the matmul's op."""


def is_fused_collective(node: fx.Node) -> bool:
    """Return whether a node's op combines a matmul with an all-gather or a reduce-scatter."""
    return is_op(node, *WITH_GATHER.values(), *WITH_SCATTER.values())
