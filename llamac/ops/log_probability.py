"""log_probability of sequences, from logits or together with the output projection.

Preference tuning compares these values, fp32 [B]. The vocabulary-parallel forms come last.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llamac.ir.graph import attributes, is_op
from llamac.ir.layout import with_layouts
from llamac.ir.op import Op
from llamac.ir.types import TensorType, Types, expect
from llamac.runtime.distributed import parallel_log_probability as parallel
from llamac.runtime.kernels import log_probability as runtime

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _infer(logits: TensorType, labels: TensorType, **_attributes: Any) -> TensorType:
    expect(
        logits.shape[:-1] == labels.shape and labels.dtype == "i64",
        f"labels must be i64, one for each of {logits}, not {labels}",
    )
    return TensorType("f64" if logits.dtype == "f64" else "f32", labels.shape[:1])


def _infer_linear(
    x: TensorType, weight: TensorType, labels: TensorType, *, chunk: int, **_attributes: Any
) -> TensorType:
    expect(chunk > 0, "a chunk must have at least one token")
    expect(x.shape[-1] == weight.shape[-1], f"x is {x}, the weight {weight}: their features differ")
    return _infer(x.with_shape(*x.shape[:-1], weight.shape[0]), labels)


def _infer_with_gradient(
    x: TensorType, weight: TensorType, labels: TensorType, **options: Any
) -> tuple[TensorType, TensorType]:
    return _infer_linear(x, weight, labels, **options), x


def _infer_scale(x: TensorType, factors: TensorType) -> TensorType:
    expect(factors.shape == x.shape[:1], f"factors must be one for each row of {x}, not {factors}")
    return x


def _vjp(b: GradientBuilder, node: fx.Node, d_rows: fx.Node) -> tuple[fx.Node | None, ...]:
    logits, labels = node.args
    backward = log_probability_backward
    if is_op(node, parallel_log_probability):
        backward = parallel_log_probability_backward
    operands = (d_rows, b.primal(logits), b.primal(labels))
    return b.op(backward, *operands, name=b.name(logits), **attributes(node)), None


def _vjp_linear(b: GradientBuilder, node: fx.Node, d_rows: fx.Node) -> tuple[fx.Node | None, ...]:
    x, weight, labels = node.args
    backward = linear_log_probability_backward
    if is_op(node, parallel_linear_log_probability):
        backward = parallel_linear_log_probability_backward
    operands = (b.primal(x), b.primal(weight), b.primal(labels), d_rows)
    names = b.name(x), b.name(weight)
    d_x, d_weight = b.op(backward, *operands, name=names, **attributes(node))
    return d_x, d_weight, None


def _vjp_with_gradient(
    b: GradientBuilder, node: fx.Node, d_rows: fx.Node, _unused: fx.Node | None
) -> tuple[fx.Node | None, ...]:
    unit = b.primal_result(node, 1)
    return b.op(scale_rows, unit, d_rows, name=b.name(node.args[0])), None, None


def _matmuls(count: int) -> Any:
    """Return a FLOPs rule that counts `count` matmuls of the first operand with the second."""

    def flops(x: tuple[int, ...], weight: tuple[int, ...], *_rest: Any, **_given: Any) -> float:
        return 2 * count * math.prod(x) * weight[0]

    return flops


log_probability = Op("log_probability", _infer, runtime.log_probability, vjp=_vjp, dims="bsV,bs->b")
log_probability_backward = Op(
    "log_probability_backward",
    infer=lambda d_rows, logits, labels: logits,
    eager=runtime.log_probability_backward,
    dims="b,bsV,bs->bsV",
)
scale_rows = Op("scale_rows", _infer_scale, runtime.scale_rows, dims="^bsD,b->bsD")
linear_log_probability_with_gradients_of_x = Op(
    "linear_log_probability_with_gradients_of_x",
    _infer_with_gradient,
    runtime.linear_log_probability_with_gradients_of_x,
    vjp=_vjp_with_gradient,
    flops=_matmuls(2),
    dims="bsD,VD,bs->b,bsD",
    cost="save",
    results=("log_probabilities", "d_x_per_row"),
)
linear_log_probability = Op(
    "linear_log_probability",
    _infer_linear,
    runtime.linear_log_probability,
    vjp=_vjp_linear,
    flops=_matmuls(1),
    dims="bsD,VD,bs->b",
    cost="save",
    augmented=(linear_log_probability_with_gradients_of_x,),
)
linear_log_probability_backward = Op(
    "linear_log_probability_backward",
    infer=lambda x, weight, labels, d_rows, chunk: (x, weight),
    eager=runtime.linear_log_probability_backward,
    flops=_matmuls(3),
    dims="bsD,VD,bs,b->bsD,VD",
)


def _vocab_parallel_rule(op: Op, split: int, dim: int) -> Any:
    """Return the typing rule of an op whose operand `split` has the vocabulary along `dim`.

    A result with the vocabulary is split likewise; one that sums over it is a partial sum, except
    for the log-probabilities, which are reduced.
    """

    def infer(*operands: TensorType, axis: str, vocab_size: int, **options: Any) -> Types:
        for number, kind in enumerate(operands):
            wanted = f"S({dim})" if number == split else "R"
            expect(kind.placement(axis) == wanted, f"{kind} must be {wanted} over {axis}")
        kinds = [kind.with_placement(axis, "R") for kind in operands]
        assert op.dims is not None
        found = with_layouts(op.dims, kinds, op.infer(*kinds, **options))
        result_types = found if isinstance(found, tuple) else (found,)
        with_layout = []
        for kind, term in zip(result_types, op.dims.partition("->")[2].split(","), strict=True):
            place = f"S({term.index('V')})" if "V" in term else "P" if "D" in term else "R"
            with_layout.append(kind.with_placement(axis, place))
        return tuple(with_layout) if isinstance(found, tuple) else with_layout[0]

    return infer


parallel_log_probability = Op(
    "parallel_log_probability",
    _vocab_parallel_rule(log_probability, 0, 2),
    parallel.parallel_log_probability,
    vjp=_vjp,
)
parallel_log_probability_backward = Op(
    "parallel_log_probability_backward",
    _vocab_parallel_rule(log_probability_backward, 1, 2),
    parallel.parallel_log_probability_backward,
)
parallel_linear_log_probability_with_gradients_of_x = Op(
    "parallel_linear_log_probability_with_gradients_of_x",
    _vocab_parallel_rule(linear_log_probability_with_gradients_of_x, 1, 0),
    parallel.parallel_linear_log_probability_with_gradients_of_x,
    vjp=_vjp_with_gradient,
    flops=_matmuls(2),
    cost="save",
    results=("log_probabilities", "d_x_per_row"),
)
parallel_linear_log_probability = Op(
    "parallel_linear_log_probability",
    _vocab_parallel_rule(linear_log_probability, 1, 0),
    parallel.parallel_linear_log_probability,
    vjp=_vjp_linear,
    flops=_matmuls(1),
    cost="save",
    augmented=(parallel_linear_log_probability_with_gradients_of_x,),
)
parallel_linear_log_probability_backward = Op(
    "parallel_linear_log_probability_backward",
    _vocab_parallel_rule(linear_log_probability_backward, 1, 0),
    parallel.parallel_linear_log_probability_backward,
    flops=_matmuls(3),
)
