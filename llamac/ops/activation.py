"""Activations silu, gelu, relu, and swiglu: silu(gate) · up of two tensors or of a packed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from llamac.ir.op import Op, same_type
from llamac.ir.types import TensorType, expect
from llamac.runtime.kernels import activation

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _elementwise(
    name: str,
    eager: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor, Tensor], Tensor],
    emit: Callable[[str], str] | None = None,
    emit_backward: Callable[[str, str], str] | None = None,
) -> tuple[Op, Op]:
    """Define an activation and its backward op, which reads the activation's input.

    emit, emit_backward: expressions in the emitted trainer. Defaults: torch's function of that
    name, and a call of `backward`, which must then be in `runtime/kernels/activation.py`.
    """

    def vjp(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
        (x,) = node.args
        return (b.op(backward_op, d_y, b.primal(x), name=b.name(x)),)

    backward_op = Op(
        f"{name}_backward", same_type, backward, emit=emit_backward, dims="bsf,bsf->bsf"
    )
    emit = emit or (lambda x: f"F.{name}({x})")
    return Op(name, same_type, eager, vjp=vjp, emit=emit, dims="bsf->bsf"), backward_op


silu, silu_backward = _elementwise("silu", F.silu, activation.silu_backward)
gelu, gelu_backward = _elementwise("gelu", F.gelu, activation.gelu_backward)
relu, relu_backward = _elementwise("relu", F.relu, activation.relu_backward)


ACTIVATIONS = {"swiglu": silu, "gelu": gelu, "relu": relu}
"""Op applied to w1's output, by `model.activation`; with swiglu, that times w3's output follows."""


def _infer_swiglu(gate: TensorType, up: TensorType) -> TensorType:
    expect(gate == up, f"gate {gate} and up {up} differ")
    return gate


def _infer_packed(gate_up: TensorType) -> TensorType:
    width = gate_up.shape[-1]
    expect(
        isinstance(width, int) and width % 2 == 0,
        f"{gate_up} has an odd number of features, so it cannot be split into gate and up",
    )
    assert isinstance(width, int)
    return gate_up.with_shape(*gate_up.shape[:-1], width // 2)


def _vjp_swiglu(b: GradientBuilder, node: fx.Node, d_hidden: fx.Node) -> tuple[fx.Node | None, ...]:
    gate, up = node.args
    names = (b.name(gate), b.name(up))
    return b.op(swiglu_backward, d_hidden, b.primal(gate), b.primal(up), name=names)


def _vjp_packed(b: GradientBuilder, node: fx.Node, d_hidden: fx.Node) -> tuple[fx.Node | None, ...]:
    (gate_up,) = node.args
    return (b.op(packed_swiglu_backward, d_hidden, b.primal(gate_up), name=b.name(gate_up)),)


swiglu = Op("swiglu", _infer_swiglu, activation.swiglu, vjp=_vjp_swiglu, dims="bsf,bsf->bsf")
swiglu_backward = Op(
    "swiglu_backward",
    lambda d_hidden, gate, up: (gate, up),
    activation.swiglu_backward,
    dims="bsf,bsf,bsf->bsf,bsf",
)

packed_swiglu = Op(
    "packed_swiglu",
    _infer_packed,
    activation.packed_swiglu,
    vjp=_vjp_packed,
    dims="bsf->bsf",
)
packed_swiglu_backward = Op(
    "packed_swiglu_backward",
    lambda d_hidden, gate_up: gate_up,
    activation.packed_swiglu_backward,
    dims="bsf,bsf->bsf",
)
