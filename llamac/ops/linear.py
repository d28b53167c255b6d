"""linear: y = x @ weight.T (+ bias), and the matmuls and the sum of its backward pass.

packed_linear: a linear without backward pass, whose weight may be packed for the matmul.
add_bias: adds a bias after a row-parallel linear's partial sums have been reduced.
add_linear: y + x @ weight.T, the second half of a LoRA adapter (arXiv:2106.09685).
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect
from llamac.runtime.kernels import linear as runtime
from llamac.runtime.kernels.packed_linear import packed_linear as run_packed

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _infer(x: TensorType, weight: TensorType, bias: TensorType | None = None) -> TensorType:
    expect(len(weight.shape) == 2, f"the weight must be [out, in], not {weight}")
    out, inner = weight.shape
    expect(x.shape[-1] == inner, f"x has {x.shape[-1]} features, the weight takes {inner}")
    expect(x.dtype == weight.dtype, f"x is {x.dtype}, the weight {weight.dtype}")
    expect(bias is None or bias.shape == (out,), f"the bias must be [{out}], not {bias}")
    summed = all(placement != "S(1)" for _, placement in weight.layout)
    expect(
        bias is None or summed,
        "a row-parallel linear cannot add its bias: every rank would add it to its partial sum",
    )
    return x.with_shape(*x.shape[:-1], out)


def _vjp(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    x, weight, *bias = node.args
    # Compute the weight's gradient first: afterwards a recomputed x can be freed.
    d_weight = b.op(linear_weight_gradient, d_y, b.primal(x), name=b.name(weight))
    d_x = b.op(linear_input_gradient, d_y, b.primal(weight), name=b.name(x))
    return (d_x, d_weight, *(b.op(linear_bias_gradient, d_y, name=b.name(one)) for one in bias))


def _infer_add(y: TensorType, x: TensorType, weight: TensorType) -> TensorType:
    added = _infer(x, weight)
    expect((y.dtype, y.shape) == (added.dtype, added.shape), f"y is {y}, what is added {added}")
    return y


def _vjp_add(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    _y, x, weight = node.args
    d_weight = b.op(linear_weight_gradient, d_y, b.primal(x), name=b.name(weight))
    d_x = b.op(linear_input_gradient, d_y, b.primal(weight), name=b.name(x))
    return d_y, d_x, d_weight


def _infer_bias(x: TensorType, bias: TensorType) -> TensorType:
    expect(bias.shape == x.shape[-1:], f"the bias must be [{x.shape[-1]}], not {bias}")
    return x


def _flops(x: tuple[int, ...], weight: tuple[int, ...], *_bias: tuple[int, ...]) -> float:
    return 2 * math.prod(x) * weight[0]


linear = Op(
    "linear", _infer, runtime.linear, vjp=_vjp, flops=_flops, dims="bsi,oi,o->bso", cost="save"
)

packed_linear = Op(
    "packed_linear", _infer, run_packed, flops=_flops, dims="bsi,oi,o->bso", cost="save"
)

add_bias = Op(
    "add_bias",
    _infer_bias,
    eager=operator.add,
    vjp=lambda b, node, d_y: (d_y, b.op(linear_bias_gradient, d_y, name=b.name(node.args[1]))),
    emit=lambda x, bias: f"{x} + {bias}",
    dims="bso,o->bso",
)

add_linear = Op(
    "add_linear",
    _infer_add,
    runtime.add_linear,
    vjp=_vjp_add,
    flops=lambda y, x, weight: 2 * math.prod(x) * weight[0],
    dims="+bso,+bsi,oi->bso",
    cost="save",
)

linear_input_gradient = Op(
    "linear_input_gradient",
    infer=lambda d_y, weight: d_y.with_shape(*d_y.shape[:-1], weight.shape[1]),
    eager=runtime.input_gradient,
    flops=lambda d_y, weight: 2 * math.prod(d_y) * weight[1],
    dims="^bso,oi->bsi",
)

linear_weight_gradient = Op(
    "linear_weight_gradient",
    infer=lambda d_y, x: d_y.with_shape(d_y.shape[-1], x.shape[-1]),
    eager=runtime.weight_gradient,
    flops=lambda d_y, x: 2 * math.prod(d_y) * x[-1],
    dims="^bso,^bsi->oi",
)

linear_bias_gradient = Op(
    "linear_bias_gradient",
    infer=lambda d_y: d_y.with_shape(d_y.shape[-1]),
    eager=runtime.bias_gradient,
    dims="bso->o",
)
