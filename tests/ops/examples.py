"""Operands for every op of the vocabulary, right and wrong ones, and each forward op's formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llamac.ir.op import OPS, Op
from llamac.ir.types import DTYPES, TensorType

SIZES = {"B": 2, "S": 6}
VOCABULARY = 11


@dataclass(frozen=True)
class Example:
    """operands: their types, or "none". T stands for the dtype under test, L for that of a loss or
    a log-sum-exp."""

    op: str
    operands: str
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        given = ",".join(f"{key}={value}" for key, value in self.attributes.items())
        return f"{self.op}({given})"

    @property
    def the_op(self) -> Op:
        return OPS[self.op]

    def types(self, dtype: str) -> list[TensorType | None]:
        wide = "f64" if dtype == "f64" else "f32"
        words = self.operands.replace("T[", f"{dtype}[").replace("L[", f"{wide}[").split()
        return [None if word == "none" else TensorType.parse(word) for word in words]

    def tensors(self, dtype: str) -> list[Tensor | None]:
        torch.manual_seed(0)
        return [None if kind is None else _tensor(kind) for kind in self.types(dtype)]


def _tensor(kind: TensorType) -> Tensor:
    shape = concrete(kind)
    if kind.dtype == "i64":
        return torch.randint(VOCABULARY, shape)
    if kind.dtype == "bool":
        seen = torch.rand(shape) < 0.5
        seen[..., 0] = True  # attention to nothing is not a number
        return seen
    return torch.randn(shape, dtype=DTYPES[kind.dtype])


def concrete(kind: TensorType) -> tuple[int, ...]:
    return tuple(SIZES[dim] if isinstance(dim, str) else dim for dim in kind.shape)


def _attention(op: str, operands: str, **more: int) -> tuple[Example, ...]:
    return tuple(
        Example(op, operands.replace("KV", str(groups)), {"scale": 0.3, "kernel": kernel, **more})
        for kernel in ("math", "sdpa")
        for groups in (4, 2, 1)
    )


QKV = "T[B,S,4,8] T[B,S,KV,8] T[B,S,KV,8]"
ROPE = ({}, {"heads": 3}, {"inverse": True}, {"heads": 2, "inverse": True})
CHUNKS = (1, 5, 12, 100)  # of 12 tokens

EXAMPLES: tuple[Example, ...] = (
    Example("add", "T[B,S,8] T[B,S,8]"),
    Example("mul", "T[B,S,8] T[B,S,8]"),
    Example("scale", "T[B,S,8] T[]"),
    Example("scale_by", "T[B,S,8]", {"factor": 0.75}),
    Example("silu", "T[B,S,8]"),
    Example("gelu", "T[B,S,8]"),
    Example("relu", "T[B,S,8]"),
    Example("silu_backward", "T[B,S,8] T[B,S,8]"),
    Example("gelu_backward", "T[B,S,8] T[B,S,8]"),
    Example("relu_backward", "T[B,S,8] T[B,S,8]"),
    Example("swiglu", "T[B,S,8] T[B,S,8]"),
    Example("swiglu_backward", "T[B,S,8] T[B,S,8] T[B,S,8]"),
    Example("packed_swiglu", "T[B,S,16]"),
    Example("packed_swiglu_backward", "T[B,S,8] T[B,S,16]"),
    *_attention("attention", QKV),
    *_attention("attention_backward", f"T[B,S,4,8] {QKV} T[B,S,4,8] L[B,4,S]"),
    *_attention("attention", QKV, window=4),
    *_attention("attention_backward", f"T[B,S,4,8] {QKV} T[B,S,4,8] L[B,4,S]", window=4),
    Example("cross_entropy", "T[B,S,11] i64[B,S]"),
    Example("cross_entropy_backward", "L[] T[B,S,11] i64[B,S]"),
    *(Example("linear_cross_entropy", "T[B,S,8] T[11,8] i64[B,S]", {"chunk": n}) for n in CHUNKS),
    *(
        Example("linear_cross_entropy_with_gradients", "T[B,S,8] T[11,8] i64[B,S]", {"chunk": n})
        for n in CHUNKS
    ),
    *(
        Example(
            "linear_cross_entropy_with_gradients_of_x",
            "T[B,S,8] T[11,8] i64[B,S]",
            {"chunk": n},
        )
        for n in CHUNKS
    ),
    Example("log_probability", "T[B,S,11] i64[B,S]"),
    Example("log_probability_backward", "L[B] T[B,S,11] i64[B,S]"),
    Example("scale_rows", "T[B,S,8] L[B]"),
    *(
        Example(f"linear_log_probability{form}", "T[B,S,8] T[11,8] i64[B,S]", {"chunk": n})
        for form in ("", "_with_gradients_of_x")
        for n in CHUNKS
    ),
    *(
        Example("linear_log_probability_backward", "T[B,S,8] T[11,8] i64[B,S] L[B]", {"chunk": n})
        for n in CHUNKS
    ),
    Example("embedding", "i64[B,S] T[11,8]"),
    Example("embedding_gradient", "T[B,S,8] i64[B,S]", {"vocab_size": 11}),
    Example("add_positions", "T[B,S,8] T[9,8]"),
    Example("position_gradient", "T[B,S,8]", {"positions": 9}),
    Example("linear", "T[B,S,8] T[5,8]"),
    Example("linear", "T[B,S,8] T[5,8] T[5]"),
    Example("packed_linear", "T[B,S,8] T[5,8]"),
    Example("add_bias", "T[B,S,8] T[8]"),
    Example("add_linear", "T[B,S,5] T[B,S,8] T[5,8]"),
    Example("linear_input_gradient", "T[B,S,5] T[5,8]"),
    Example("linear_weight_gradient", "T[B,S,5] T[B,S,8]"),
    Example("linear_bias_gradient", "T[B,S,5]"),
    Example("rms_norm", "T[B,S,8] T[8]", {"eps": 1e-5}),
    Example("rms_norm_backward", "T[B,S,8] T[B,S,8] T[8]", {"eps": 1e-5}),
    Example("head_rms_norm", "T[B,S,4,8] T[8]", {"eps": 1e-5}),
    Example("head_rms_norm_backward", "T[B,S,4,8] T[B,S,4,8] T[8]", {"eps": 1e-5}),
    Example("layer_norm", "T[B,S,8] T[8] T[8]", {"eps": 1e-5}),
    Example("layer_norm_backward", "T[B,S,8] T[B,S,8] T[8]", {"eps": 1e-5}),
    Example("add_rms_norm", "T[B,S,8] T[B,S,8] T[8]", {"eps": 1e-5}),
    Example("add_rms_norm_backward", "T[B,S,8] T[B,S,8] T[B,S,8] T[8]", {"eps": 1e-5}),
    Example("add_rms_norm_backward", "none T[B,S,8] T[B,S,8] T[8]", {"eps": 1e-5}),
    *(
        Example("rope", "T[B,S,4,8] f32[S,4] f32[S,4]", {"layout": layout, **rest})
        for layout in ("interleaved", "half_split")
        for rest in ROPE
    ),
    Example("rope", "T[B,S,4,8] f32[B,S,4] f32[B,S,4]", {"layout": "half_split"}),
    Example("cache_fill", "T[B,S,2,8] T[B,2,12,8]"),
    Example("cache_append", "T[B,S,2,8] T[B,2,12,8] i64[B,S]"),
    Example("cache_mask", "i64[B,S] i64[12]"),
    Example("cache_mask", "i64[B,S] i64[12] i64[B,S]", {"window": 3}),
    *(
        Example("cached_attention", f"T[B,{s},4,8] {keys} {keys} bool[B,{s},12]", {"scale": 0.3})
        for keys in ("T[B,4,12,8]", "T[B,2,12,8]", "T[B,1,12,8]")
        for s in ("S", 1)
    ),
    Example("split_heads", "T[B,S,32]", {"head_dim": 8}),
    Example("merge_heads", "T[B,S,4,8]"),
    Example("split", "T[B,S,8]", {"sizes": (4, 4), "dim": -1}),
    Example("split", "T[B,S,6,4]", {"sizes": (2, 2, 2), "dim": 2}),
    Example("concat", "T[B,S,3] T[B,S,2]", {"dim": -1}),
    Example("drop_padding", "T[B,S,9]", {"size": 7}),
    Example("rank_order", "T[12,3]", {"dim": 0, "size": 3}),
    Example("position_order", "T[B,12,3]", {"dim": 1, "size": 3}),
)

# -- operands that a typing rule must refuse, and words its message must hold ----------------------

REFUSED: tuple[tuple[Example, str], ...] = (
    (Example("add", "T[B,S,8] T[B,S,4]"), "differ"),
    (Example("mul", "T[B,S,8] f32[B,S,8]"), "differ"),
    (Example("scale", "T[B,S,8] T[8]"), "must be a scalar"),
    (Example("swiglu", "T[B,S,8] T[B,S,4]"), "gate .* and up .* differ"),
    (Example("packed_swiglu", "T[B,S,7]"), "has an odd number of features"),
    (Example("linear", "T[B,S,8] T[5,4]"), "x has 8 features, the weight takes 4"),
    (Example("linear", "T[B,S,8] T[5]"), r"must be \[out, in\]"),
    (Example("linear", "T[B,S,8] f32[5,8]"), "x is f64, the weight f32"),
    (Example("linear", "T[B,S,8] T[5,8] T[8]"), r"the bias must be \[5\]"),
    (Example("add_linear", "T[B,S,4] T[B,S,8] T[5,8]"), "y is .*, what is added"),
    (Example("add_bias", "T[B,S,8] T[4]"), r"the bias must be \[8\]"),
    (
        Example(
            "attention",
            "T[B,S,4,8] T[B,S,2,8] T[B,S,2,8]",
            {"scale": 0.3, "kernel": "math", "window": 0},
        ),
        "the window must be positive, not 0",
    ),
    (Example("rms_norm", "T[B,S,8] T[4]", {"eps": 1e-5}), r"the gain must be \[8\]"),
    (Example("rms_norm", "T[B,S,8] T[8]", {"eps": 0.0}), "eps must be positive"),
    (Example("head_rms_norm", "T[B,S,4,8] T[4]", {"eps": 1e-5}), r"the gain must be \[8\]"),
    (Example("layer_norm", "T[B,S,8] T[8] T[4]", {"eps": 1e-5}), "bias must be like the gain"),
    (Example("add_rms_norm", "T[B,S,8] T[B,S,4] T[8]", {"eps": 1e-5}), "cannot add"),
    (Example("embedding", "T[B,S] T[11,8]"), "token ids must be i64"),
    (Example("add_positions", "T[B,S,8] T[9,4]"), "do not fit"),
    (Example("rank_order", "T[9,3]", {"dim": 0, "size": 3}), "do not divide into two chunks"),
    (Example("position_order", "T[9,3]", {"dim": 0, "size": 3}), "do not divide into two chunks"),
    (
        Example("rope", "T[B,S,4,8] f32[S,4] f32[S,4]", {"layout": "spiral"}),
        "unknown layout 'spiral'",
    ),
    (
        Example("rope", "T[B,S,4,8] f32[S,8] f32[S,8]", {"layout": "half_split"}),
        r"tables must be \[S,4\]",
    ),
    (
        Example("rope", "T[B,S,4,8] f32[S,4] f32[S,4]", {"layout": "half_split", "heads": 5}),
        "has fewer than 5 heads",
    ),
    (Example("split_heads", "T[B,S,30]", {"head_dim": 8}), "does not divide into heads of 8"),
    (Example("split", "T[B,S,8]", {"sizes": (4, 3), "dim": -1}), "has 8 along -1, the parts 7"),
    (
        Example("attention", "T[B,S,4,8] T[B,S,2,8] T[B,S,4,8]", {"scale": 1.0, "kernel": "math"}),
        "keys are .*, values",
    ),
    (
        Example("attention", "T[B,S,4,8] T[B,S,3,8] T[B,S,3,8]", {"scale": 1.0, "kernel": "math"}),
        "4 query heads do not divide over 3",
    ),
    (
        Example("attention", "T[B,S,4,8] T[B,S,4,8] T[B,S,4,8]", {"scale": 1.0, "kernel": "warp"}),
        "unknown kernel 'warp'; known: ",
    ),
    (Example("cross_entropy", "T[B,S,11] i64[B]"), "one for each of"),
    (Example("cross_entropy", "T[B,S,11] T[B,S]"), "labels must be i64"),
    (Example("log_probability", "T[B,S,11] i64[B]"), "one for each of"),
    (
        Example("linear_log_probability", "T[B,S,8] T[11,4] i64[B,S]", {"chunk": 4}),
        "x is .*, the weight",
    ),
    (
        Example("linear_log_probability", "T[B,S,8] T[11,8] i64[B,S]", {"chunk": 0}),
        "at least one token",
    ),
    (Example("scale_rows", "T[B,S,8] L[S]"), "one for each row"),
    (
        Example("linear_cross_entropy", "T[B,S,8] T[11,4] i64[B,S]", {"chunk": 4}),
        "x is .*, the weight",
    ),
    (
        Example("linear_cross_entropy", "T[B,S,8] T[11,8] i64[B,S]", {"chunk": 0}),
        "at least one token",
    ),
    (Example("drop_padding", "T[B,S,12]", {"size": 13}), "has fewer than 13 features"),
)
TAKES_ANYTHING = {
    "silu",
    "gelu",
    "relu",
    "scale_by",
    "merge_heads",
}  # one operand, of any floating type

# -- what the forward ops compute, in other words than the runtime's -------------------------------


def _rotate(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: str,
    heads: int | None = None,
    inverse: bool = False,
) -> Tensor:
    """Rotation as a complex product, which shares no code with the runtime's."""
    width = x.shape[-1]
    order = torch.arange(width)
    if layout == "half_split":  # as interleaved, of the coordinates in another order
        order = order.view(2, -1).T.flatten()
    pairs = torch.view_as_complex(x[..., order].unflatten(-1, (-1, 2)).contiguous())
    turn = torch.complex(cos, sin).unsqueeze(-2).to(torch.complex128)
    turned = torch.view_as_real(pairs * (turn.conj() if inverse else turn)).flatten(-2)
    turned = turned[..., order.argsort()]
    if heads is None:
        return turned
    first = torch.arange(x.shape[2])[:, None] < heads
    return torch.where(first, turned, x)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, kernel: str, window: int | None = None
) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
    if window is not None:
        seen = seen.triu(1 - window)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True)
    return out.transpose(1, 2)


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    chosen = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1))
    return -chosen.sum()


def _log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).sum((-1, -2))


def _linear_log_probability(x: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
    return _log_probability(x @ weight.T, labels)


def _linear_cross_entropy(x: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
    return _cross_entropy(x @ weight.T, labels)


FORMULA: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "mul": lambda x, y: x * y,
    "scale_by": lambda x, factor: x * factor,
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: x * torch.distributions.Normal(0.0, 1.0).cdf(x),
    "relu": lambda x: x.clamp(min=0),
    "swiglu": lambda gate, up: gate / (1 + torch.exp(-gate)) * up,
    "packed_swiglu": lambda x: F.silu(x[..., :8]) * x[..., 8:],
    "attention": _attend,
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
    "linear_cross_entropy_with_gradients": _linear_cross_entropy,
    "linear_cross_entropy_with_gradients_of_x": _linear_cross_entropy,
    "log_probability": _log_probability,
    "linear_log_probability": _linear_log_probability,
    "linear_log_probability_with_gradients_of_x": _linear_log_probability,
    "embedding": lambda tokens, table: table[tokens],
    "add_positions": lambda x, table: x + table[None, : x.shape[1]],
    "linear": lambda x, w, b=0.0: torch.einsum("bsi,oi->bso", x, w) + b,
    "add_bias": lambda x, b: x + b,
    "add_linear": lambda y, x, w: y + torch.einsum("bsi,oi->bso", x, w),
    "rms_norm": _rms,
    "head_rms_norm": _rms,
    "layer_norm": lambda x, w, b, eps: (
        (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps).sqrt() * w
        + b
    ),
    "add_rms_norm": lambda x, r, w, eps: (x + r, _rms(x + r, w, eps)),
    "rope": _rotate,
    "rank_order": lambda x, dim, size: x[[0, 1, 10, 11, 2, 3, 8, 9, 4, 5, 6, 7]],
    "position_order": lambda x, dim, size: x[:, [0, 1, 4, 5, 8, 9, 10, 11, 6, 7, 2, 3]],
    "split_heads": lambda x, head_dim: x.reshape(*x.shape[:-1], -1, head_dim),
    "merge_heads": lambda x: x.reshape(*x.shape[:-2], -1),
    "split": lambda x, sizes, dim: tuple(
        x.narrow(dim, sum(sizes[:i]), size) for i, size in enumerate(sizes)
    ),
}
