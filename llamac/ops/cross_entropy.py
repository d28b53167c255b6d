"""cross_entropy of logits, and linear_cross_entropy, which includes the output projection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect
from llamac.ops.elementwise import scale
from llamac.runtime.kernels import cross_entropy as runtime

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _loss(x: TensorType) -> TensorType:
    return TensorType("f64" if x.dtype == "f64" else "f32", ())


def _infer(logits: TensorType, labels: TensorType) -> TensorType:
    expect(
        logits.shape[:-1] == labels.shape and labels.dtype == "i64",
        f"labels must be i64, one for each of {logits}, not {labels}",
    )
    return _loss(logits)


def _vjp(b: GradientBuilder, node: fx.Node, d_loss: fx.Node) -> tuple[fx.Node | None, ...]:
    logits, labels = node.args
    d_logits = b.op(
        cross_entropy_backward, d_loss, b.primal(logits), b.primal(labels), name=b.name(logits)
    )
    return d_logits, None


def _infer_linear(
    x: TensorType, weight: TensorType, labels: TensorType, *, chunk: int
) -> TensorType:
    expect(chunk > 0, "a chunk must have at least one token")
    expect(x.shape[-1] == weight.shape[-1], f"x is {x}, the weight {weight}: their features differ")
    return _infer(x.with_shape(*x.shape[:-1], weight.shape[0]), labels)


def _infer_with_gradients(
    x: TensorType, weight: TensorType, labels: TensorType, *, chunk: int
) -> tuple[TensorType, TensorType, TensorType]:
    return _infer_linear(x, weight, labels, chunk=chunk), x, weight


def _vjp_with_gradients(
    b: GradientBuilder, node: fx.Node, d_loss: fx.Node, *_unused: fx.Node | None
) -> tuple[fx.Node | None, ...]:
    x, weight, _labels = node.args
    d_x = b.op(scale, b.primal_result(node, 1), d_loss, name=b.name(x))
    return d_x, b.op(scale, b.primal_result(node, 2), d_loss, name=b.name(weight)), None


def _infer_with_gradients_of_x(
    x: TensorType, weight: TensorType, labels: TensorType, *, chunk: int
) -> tuple[TensorType, TensorType]:
    return _infer_linear(x, weight, labels, chunk=chunk), x


def vjp_with_gradients_of_x(
    b: GradientBuilder, node: fx.Node, d_loss: fx.Node, *_unused: fx.Node | None
) -> tuple[fx.Node | None, ...]:
    """Return the cotangents of (x, weight, labels) of a loss op that also returns x's gradient.

    The cotangent of x is that gradient, the op's second result, times d_loss. Those of the weight,
    which is frozen, and of the labels are None.
    """
    return b.op(scale, b.primal_result(node, 1), d_loss, name=b.name(node.args[0])), None, None


cross_entropy = Op("cross_entropy", _infer, runtime.cross_entropy, vjp=_vjp, dims="bsV,bs->.")
cross_entropy_backward = Op(
    "cross_entropy_backward",
    infer=lambda d_loss, logits, labels: logits,
    eager=runtime.cross_entropy_backward,
    dims=",bsV,bs->bsV",
)

linear_cross_entropy_with_gradients = Op(
    "linear_cross_entropy_with_gradients",
    _infer_with_gradients,
    runtime.linear_cross_entropy_with_gradients,
    vjp=_vjp_with_gradients,
    flops=lambda x, weight, labels, chunk: 6 * math.prod(x) * weight[0],
    dims="bsD,VD,bs->.,bsD,VD",
    cost="save",
    results=("loss", "d_x_per_loss", "d_weight_per_loss"),
)
linear_cross_entropy_with_gradients_of_x = Op(
    "linear_cross_entropy_with_gradients_of_x",
    _infer_with_gradients_of_x,
    runtime.linear_cross_entropy_with_gradients_of_x,
    vjp=vjp_with_gradients_of_x,
    flops=lambda x, weight, labels, chunk: 4 * math.prod(x) * weight[0],
    dims="bsD,VD,bs->.,bsD",
    cost="save",
    results=("loss", "d_x_per_loss"),
)
linear_cross_entropy = Op(
    "linear_cross_entropy",
    _infer_linear,
    runtime.linear_cross_entropy,
    flops=lambda x, weight, labels, chunk: 2 * math.prod(x) * weight[0],
    dims="bsD,VD,bs->.",
    cost="save",
    augmented=(linear_cross_entropy_with_gradients_of_x, linear_cross_entropy_with_gradients),
)
