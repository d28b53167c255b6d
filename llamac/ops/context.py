"""Context-parallel attention: a rank's queries attend to all positions; ops that reorder positions.

The algorithm is described in `runtime/distributed/context_parallel.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from llamac.ir.graph import attributes
from llamac.ir.layout import with_layouts
from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect
from llamac.ops.attention import attention, kernel_module, keyword_text, matmul_flops
from llamac.ops.collectives import shard_size
from llamac.runtime.distributed import context_parallel as runtime

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _infer(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    *,
    axis: str,
    size: int,
    scale: float,
    kernel: str,
    window: int | None = None,
) -> tuple[TensorType, TensorType]:
    expect(q.placement(axis) == "S(1)", f"{axis} must split the queries' positions: {q}")
    expect(shard_size(k.shape[1], size, axis) == q.shape[1], f"queries are {q}, keys {k}")
    every = q.with_shape(q.shape[0], k.shape[1], *q.shape[2:]).with_placement(axis, "R")
    kinds = attention.infer(every, k, v, scale=scale, kernel=kernel, window=window)
    assert attention.dims is not None
    _out, logsumexp = with_layouts(attention.dims, (every, k, v), kinds)  # type: ignore[misc]
    mine = logsumexp.with_shape(*logsumexp.shape[:2], q.shape[1])
    return q, mine.with_placement(axis, "S(2)")


def _infer_backward(
    d_out: TensorType,
    q: TensorType,
    k: TensorType,
    v: TensorType,
    out: TensorType,
    logsumexp: TensorType,
    *,
    axis: str,
    size: int,
    **attributes: Any,
) -> tuple[TensorType, TensorType, TensorType]:
    found = _infer(q, k, v, axis=axis, size=size, **attributes)
    expect(
        (out, logsumexp) == found, f"{out} and {logsumexp} are not the types of attention's results"
    )
    expect(d_out == out, f"the gradient of {out} is {d_out}")
    return q, k.with_placement(axis, "P"), v.with_placement(axis, "P")


def _eager(
    *tensors: Tensor, axis: str, size: int, scale: float, kernel: str, window: int | None = None
) -> tuple[Tensor, Tensor]:
    forward = kernel_module(kernel).attention
    return runtime.context_attention(forward, *tensors, axis=axis, scale=scale, window=window)


def _eager_backward(
    *tensors: Tensor, axis: str, size: int, scale: float, kernel: str, window: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    backward = kernel_module(kernel).attention_backward
    return runtime.context_attention_backward(
        backward, *tensors, axis=axis, scale=scale, window=window
    )


def _vjp(
    b: GradientBuilder, node: fx.Node, d_out: fx.Node, _d_logsumexp: fx.Node | None
) -> tuple[fx.Node | None, ...]:
    primals = [b.primal(operand) for operand in node.args]
    saved = (b.primal_result(node, 0), b.primal_result(node, 1))
    names = tuple(b.name(operand) for operand in node.args)
    return b.op(context_attention_backward, d_out, *primals, *saved, name=names, **attributes(node))


def _call(name: str, tensors: tuple[str, ...], axis: Any, scale: Any, window: Any) -> str:
    kernel = name.removeprefix("context_")
    rest = {"scale": scale} | ({} if window is None else {"window": window})
    return f"{name}({kernel}, {', '.join(tensors)}, {axis}, {keyword_text(rest)})"


context_attention = Op(
    "context_attention",
    _infer,
    _eager,
    vjp=_vjp,
    flops=lambda q, k, *_others, axis, size, scale, kernel, window=None: matmul_flops(
        q, k[1], window, 2
    ),
    emit=lambda *tensors, axis, size, scale, kernel, window=None: _call(
        "context_attention", tensors, axis, scale, window
    ),
    cost="save",
    results=attention.results,
)
context_attention_backward = Op(
    "context_attention_backward",
    _infer_backward,
    _eager_backward,
    flops=lambda d_out, q, k, *_others, axis, size, scale, kernel, window=None: matmul_flops(
        q, k[1], window, 5
    ),
    emit=lambda *tensors, axis, size, scale, kernel, window=None: _call(
        "context_attention_backward", tensors, axis, scale, window
    ),
)


def _infer_order(x: TensorType, *, dim: int, size: int) -> TensorType:
    length = x.shape[dim]
    divides = isinstance(length, str) or length % (2 * size) == 0
    expect(divides, f"{length} positions do not divide into two chunks for each of {size} ranks")
    return x


def _vjp_rank_order(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    return (b.op(position_order, d_y, name=b.name(node.args[0]), **attributes(node)),)


def _vjp_position_order(
    b: GradientBuilder, node: fx.Node, d_y: fx.Node
) -> tuple[fx.Node | None, ...]:
    return (b.op(rank_order, d_y, name=b.name(node.args[0]), **attributes(node)),)


rank_order = Op("rank_order", _infer_order, runtime.rank_order, vjp=_vjp_rank_order, dims="*->*")
position_order = Op(
    "position_order", _infer_order, runtime.position_order, vjp=_vjp_position_order, dims="*->*"
)
