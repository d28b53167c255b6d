"""rms_norm, layer_norm, and add_rms_norm: a residual addition together with the norm of the sum.

head_rms_norm is rms_norm over each head, with one gain for all (queries and keys of Qwen3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamac.ir.graph import attributes
from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect
from llamac.runtime.kernels import norm

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _infer_rms(x: TensorType, weight: TensorType, *, eps: float) -> TensorType:
    expect(eps > 0, "eps must be positive")
    expect(weight.shape == x.shape[-1:], f"the gain must be [{x.shape[-1]}], not {weight}")
    return x


def _infer_layer(x: TensorType, weight: TensorType, bias: TensorType, *, eps: float) -> TensorType:
    expect(bias.shape == weight.shape, f"the bias must be like the gain, not {bias}")
    return _infer_rms(x, weight, eps=eps)


def _infer_add_rms(
    x: TensorType, residual: TensorType, weight: TensorType, *, eps: float
) -> tuple[TensorType, TensorType]:
    expect(x == residual, f"cannot add {x} and {residual}")
    return x, _infer_rms(x, weight, eps=eps)


def _vjp_rms(
    b: GradientBuilder, node: fx.Node, d_y: fx.Node, backward: Op
) -> tuple[fx.Node | None, ...]:
    x, weight = node.args
    return b.op(
        backward,
        d_y,
        b.primal(x),
        b.primal(weight),
        name=(b.name(x), b.name(weight)),
        **attributes(node),
    )


def _vjp_layer(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    x, weight, bias = node.args
    return b.op(
        layer_norm_backward,
        d_y,
        b.primal(x),
        b.primal(weight),
        name=(b.name(x), b.name(weight), b.name(bias)),
        **attributes(node),
    )


def _vjp_add_rms(
    b: GradientBuilder, node: fx.Node, d_total: fx.Node | None, d_y: fx.Node
) -> tuple[fx.Node | None, ...]:
    weight = node.args[2]
    total = b.primal_result(node, 0)
    d_x, d_weight = b.op(
        add_rms_norm_backward,
        d_total,
        d_y,
        total,
        b.primal(weight),
        name=(f"d_{total.name}", b.name(weight)),
        **attributes(node),
    )
    return d_x, d_x, d_weight


rms_norm = Op(
    "rms_norm",
    _infer_rms,
    norm.rms_norm,
    vjp=lambda b, node, d_y: _vjp_rms(b, node, d_y, rms_norm_backward),
    dims="bsD,D->bsD",
)
rms_norm_backward = Op(
    "rms_norm_backward",
    infer=lambda d_y, x, weight, eps: (x, weight),
    eager=norm.rms_norm_backward,
    dims="bsD,bsD,D->bsD,D",
)

head_rms_norm = Op(
    "head_rms_norm",
    _infer_rms,
    norm.rms_norm,
    vjp=lambda b, node, d_y: _vjp_rms(b, node, d_y, head_rms_norm_backward),
    dims="bshD,D->bshD",
)
head_rms_norm_backward = Op(
    "head_rms_norm_backward",
    infer=rms_norm_backward.infer,
    eager=norm.rms_norm_backward,
    dims="bshD,bshD,D->bshD,D",
)

layer_norm = Op("layer_norm", _infer_layer, norm.layer_norm, vjp=_vjp_layer, dims="bsD,D,D->bsD")
layer_norm_backward = Op(
    "layer_norm_backward",
    infer=lambda d_y, x, weight, eps: (x, weight, weight),
    eager=norm.layer_norm_backward,
    dims="bsD,bsD,D->bsD,D,D",
)

add_rms_norm = Op(
    "add_rms_norm",
    _infer_add_rms,
    norm.add_rms_norm,
    vjp=_vjp_add_rms,
    dims="bsD,bsD,D->bsD,bsD",
    results=("total", "normed"),
)
add_rms_norm_backward = Op(
    "add_rms_norm_backward",
    infer=lambda d_total, d_y, total, weight, eps: (total, weight),
    eager=norm.add_rms_norm_backward,
    dims="bsD,bsD,bsD,D->bsD,D",
)

NORMS = {"rmsnorm": rms_norm, "layernorm": layer_norm}
"""Norm ops by `model.norm`. Those in `spec.model.BIASED_NORMS` also take a bias."""
