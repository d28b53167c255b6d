"""attention: causal grouped-query attention by one of several kernels.

`passes/select_kernels.py` chooses the kernel. An optional fourth operand gives the position at
which each token's document begins; a query does not attend to earlier keys. With a window, a query
attends to at most that many keys, its own included.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llamac.ir.graph import attributes
from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder

KERNELS = ("cudnn", "xformers", "sdpa", "math")
"""Names of the attention kernels, as in `kernels.attention` of the spec."""


def kernel_module(kernel: str) -> Any:
    """Import and return the runtime module of an attention kernel, one of `KERNELS`."""
    # Looked up when run: xformers can be chosen for a machine other than this one.
    return import_module(f"llamac.runtime.kernels.attention.attention_{kernel}")


def _eager(
    *tensors: Tensor, scale: float, kernel: str, window: int | None = None
) -> tuple[Tensor, Tensor]:
    rest = _limits(tensors[3:], window)
    return kernel_module(kernel).attention(*tensors[:3], scale, **rest)


def _eager_backward(
    *tensors: Tensor, scale: float, kernel: str, window: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    rest = _limits(tensors[6:], window)
    return kernel_module(kernel).attention_backward(*tensors[:6], scale, **rest)


def _limits(starts: tuple[Any, ...], window: Any) -> dict[str, Any]:
    """Return the kernels' keyword arguments for the document mask and the window."""
    limits = {"starts": starts[0]} if starts else {}
    return limits if window is None else {**limits, "window": window}


def _infer(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    starts: TensorType | None = None,
    *,
    scale: float,
    kernel: str,
    window: int | None = None,
) -> tuple[TensorType, TensorType]:
    expect(window is None or window > 0, f"the window must be positive, not {window}")
    expect(kernel in KERNELS, f"unknown kernel {kernel!r}; known: {', '.join(KERNELS)}")
    expect(k == v, f"keys are {k}, values {v}")
    batch, length, heads, head_dim = q.shape
    groups = k.shape[2]
    expect(q.with_shape(batch, length, groups, head_dim) == k, f"queries are {q}, keys {k}")
    message = f"starts must be i64, one for each position of {q}, not {starts}"
    expect(starts is None or (starts.dtype, starts.shape) == ("i64", q.shape[:2]), message)
    assert isinstance(heads, int)
    assert isinstance(groups, int)
    expect(heads % groups == 0, f"{heads} query heads do not divide over {groups} key heads")
    return q, TensorType("f64" if q.dtype == "f64" else "f32", (batch, heads, length))


def _vjp(
    b: GradientBuilder, node: fx.Node, d_out: fx.Node, _d_logsumexp: fx.Node | None
) -> tuple[fx.Node | None, ...]:
    primals = [b.primal(operand) for operand in node.args]
    saved = (b.primal_result(node, 0), b.primal_result(node, 1))
    names = tuple(b.name(operand) for operand in node.args[:3])
    operands = (d_out, *primals[:3], *saved, *primals[3:])
    gradients = b.op(attention_backward, *operands, name=names, **attributes(node))
    return (*gradients, *(None for _ in primals[3:]))


def matmul_flops(q: tuple[int, ...], keys: int, window: int | None, matmuls: int) -> float:
    """Return the FLOPs of causal attention's matmuls between queries and the keys they attend to.

    A multiply-add counts as two. A causal query attends to half of the keys on average. With a
    window, each query attends to a full window, except for the first ones, which see half of it.

    q: shape of the queries, [B, S, heads, head_dim]. keys: number of keys.
    window: largest number of keys that a query attends to; None means no limit.
    matmuls: number of matmuls: 2 in a forward pass, 5 in a backward pass.
    """
    seen = min(window or keys, keys)
    return matmuls * math.prod(q) * seen * (2 - seen / keys)


def _call(name: str, operands: tuple[str, ...], own: int, scale: Any, window: Any) -> str:
    rest = {"scale": scale, **_limits(operands[own:], window)}
    return f"{name}({', '.join(operands[:own])}, {keyword_text(rest)})"


def keyword_text(keywords: dict[str, Any]) -> str:
    """Return keyword arguments as source: `scale=0.125, starts=starts`. Strings are expressions."""
    return ", ".join(f"{key}={value}" for key, value in keywords.items())


attention = Op(
    "attention",
    _infer,
    _eager,
    vjp=_vjp,
    flops=lambda q, *_others, scale, kernel, window=None: matmul_flops(q, q[1], window, 2),
    emit=lambda *operands, scale, kernel, window=None: _call(
        "attention", operands, 3, scale, window
    ),
    dims="bShD,bShD,bShD,bS->bShD,bhS",
    cost="save",
    results=("attn_context", "logsumexp"),
)
attention_backward = Op(
    "attention_backward",
    infer=lambda d_out, q, k, v, *_others, scale, kernel, window=None: (q, k, v),
    eager=_eager_backward,
    flops=lambda d_out, q, *_others, scale, kernel, window=None: matmul_flops(q, q[1], window, 5),
    emit=lambda *operands, scale, kernel, window=None: _call(
        "attention_backward", operands, 6, scale, window
    ),
    dims="bShD,bShD,bShD,bShD,bShD,bhS,bS->bShD,bShD,bShD",
)
