"""attention: causal, grouped-query, by one of several kernels (see `passes/select_kernels.py`).

With a fourth operand, the positions at which documents begin, it looks back no further than there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llamac.ir.graph import attributes
from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder

KERNELS = ("xformers", "sdpa", "math")


def kernel_module(kernel: str) -> Any:
    # Looked up when run: xformers can be chosen for a machine other than this one.
    return import_module(f"llamac.runtime.kernels.attention_{kernel}")


def _eager(*tensors: Tensor, scale: float, kernel: str) -> tuple[Tensor, Tensor]:
    return kernel_module(kernel).attention(*tensors[:3], scale, **_documents(tensors[3:]))


def _eager_backward(*tensors: Tensor, scale: float, kernel: str) -> tuple[Tensor, Tensor, Tensor]:
    backward = kernel_module(kernel).attention_backward
    return backward(*tensors[:6], scale, **_documents(tensors[6:]))


def _documents(rest: tuple[Any, ...]) -> dict[str, Any]:
    return {"starts": rest[0]} if rest else {}


def _infer(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    starts: TensorType | None = None,
    *,
    scale: float,
    kernel: str,
) -> tuple[TensorType, TensorType]:
    expect(kernel in KERNELS, f"unknown kernel {kernel!r}; known: {', '.join(KERNELS)}")
    expect(k == v, f"keys are {k}, values {v}")
    batch, length, heads, head_dim = q.shape
    groups = k.shape[2]
    expect(q.with_shape(batch, length, groups, head_dim) == k, f"queries are {q}, keys {k}")
    wanted = f"starts must be i64, one for each position of {q}, not {starts}"
    expect(starts is None or (starts.dtype, starts.shape) == ("i64", q.shape[:2]), wanted)
    assert isinstance(heads, int)
    assert isinstance(groups, int)
    expect(heads % groups == 0, f"{heads} query heads do not divide over {groups} key heads")
    return q, TensorType("f64" if q.dtype == "f64" else "f32", (batch, heads, length))


def _vjp(
    b: GradientBuilder, node: fx.Node, d_out: fx.Node, _d_logsumexp: fx.Node | None
) -> tuple[fx.Node | None, ...]:
    primals = [b.primal(operand) for operand in node.args]
    kept = (b.primal_result(node, 0), b.primal_result(node, 1))
    names = tuple(b.name(operand) for operand in node.args[:3])
    operands = (d_out, *primals[:3], *kept, *primals[3:])
    gradients = b.op(attention_backward, *operands, name=names, **attributes(node))
    return (*gradients, *(None for _ in primals[3:]))


def _matmul_flops(q: tuple[int, ...], matmuls: int) -> float:
    batch, length, heads, head_dim = q
    return matmuls * batch * heads * length * length * head_dim  # 2 a multiply-add, causal half


def _call(name: str, operands: tuple[str, ...], scale: float, own: int) -> str:
    starts = f", starts={operands[own]}" if operands[own:] else ""
    return f"{name}({', '.join(operands[:own])}, scale={scale}{starts})"


attention = Op(
    "attention",
    _infer,
    _eager,
    vjp=_vjp,
    flops=lambda q, *_others, scale, kernel: _matmul_flops(q, 2),
    emit=lambda *operands, scale, kernel: _call("attention", operands, scale, 3),
    dims="bShD,bShD,bShD,bS->bShD,bhS",
    cost="save",
    results=("context", "logsumexp"),
)
attention_backward = Op(
    "attention_backward",
    infer=lambda d_out, q, k, v, *_others, scale, kernel: (q, k, v),
    eager=_eager_backward,
    flops=lambda d_out, q, *_others, scale, kernel: _matmul_flops(q, 5),
    emit=lambda *operands, scale, kernel: _call("attention_backward", operands, scale, 6),
    dims="bShD,bShD,bShD,bShD,bShD,bhS,bS->bShD,bShD,bShD",
)
