"""attention: causal, grouped-query, by one of several kernels (see `passes/select_kernels.py`)."""

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
    return import_module(f"llamac.runtime.attention_{kernel}")


def _eager(q: Tensor, k: Tensor, v: Tensor, scale: float, kernel: str) -> tuple[Tensor, Tensor]:
    return kernel_module(kernel).attention(q, k, v, scale)


def _eager_backward(*tensors: Tensor, scale: float, kernel: str) -> tuple[Tensor, Tensor, Tensor]:
    return kernel_module(kernel).attention_backward(*tensors, scale)


def _infer(
    q: TensorType, k: TensorType, v: TensorType, *, scale: float, kernel: str
) -> tuple[TensorType, TensorType]:
    expect(kernel in KERNELS, f"unknown kernel {kernel!r}; known: {', '.join(KERNELS)}")
    expect(k == v, f"keys are {k}, values {v}")
    batch, length, heads, head_dim = q.shape
    groups = k.shape[2]
    expect(q.with_shape(batch, length, groups, head_dim) == k, f"queries are {q}, keys {k}")
    assert isinstance(heads, int)
    assert isinstance(groups, int)
    expect(heads % groups == 0, f"{heads} query heads do not divide over {groups} key heads")
    return q, TensorType("f64" if q.dtype == "f64" else "f32", (batch, heads, length))


def _vjp(
    b: GradientBuilder, node: fx.Node, d_out: fx.Node, _d_logsumexp: fx.Node | None
) -> tuple[fx.Node | None, ...]:
    primals = [b.primal(operand) for operand in node.args]
    kept = (b.primal_result(node, 0), b.primal_result(node, 1))
    names = tuple(b.name(operand) for operand in node.args)
    return b.op(attention_backward, d_out, *primals, *kept, name=names, **attributes(node))


def _matmul_flops(q: tuple[int, ...], matmuls: int) -> float:
    batch, length, heads, head_dim = q
    return matmuls * batch * heads * length * length * head_dim  # 2 a multiply-add, causal half


attention = Op(
    "attention",
    _infer,
    _eager,
    vjp=_vjp,
    flops=lambda q, k, v, scale, kernel: _matmul_flops(q, 2),
    emit=lambda q, k, v, scale, kernel: f"attention({q}, {k}, {v}, scale={scale})",
    dims="bShD,bShD,bShD->bShD,bhS",
    cost="save",
    results=("context", "logsumexp"),
)
attention_backward = Op(
    "attention_backward",
    infer=lambda d_out, q, k, v, out, logsumexp, scale, kernel: (q, k, v),
    eager=_eager_backward,
    flops=lambda d_out, q, k, v, out, logsumexp, scale, kernel: _matmul_flops(q, 5),
    emit=lambda *tensors, scale, kernel: f"attention_backward({', '.join(tensors)}, scale={scale})",
    dims="bShD,bShD,bShD,bShD,bShD,bhS->bShD,bShD,bShD",
)
