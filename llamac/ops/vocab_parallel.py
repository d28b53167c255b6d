"""Vocabulary-parallel embedding and loss: ranks of one axis shard the padded vocabulary.

On other axes, layouts follow the rules of the ops without vocabulary parallelism.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llamac.ir.graph import attributes, type_of
from llamac.ir.layout import with_layouts
from llamac.ir.op import Op
from llamac.ir.types import TensorType, Types, expect
from llamac.ops.cross_entropy import (
    cross_entropy,
    cross_entropy_backward,
    linear_cross_entropy,
    linear_cross_entropy_with_gradients,
    vjp_with_gradients_of_x,
)
from llamac.ops.elementwise import scale
from llamac.ops.embedding import embedding, embedding_gradient
from llamac.runtime.distributed import vocab_parallel as runtime

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _infer_unsharded(op: Op, axis: str, *operands: TensorType, **options: object) -> Types:
    """Infer types by the rule of the ordinary op, applied to a rank's rows of the vocabulary."""
    kinds = [kind.with_placement(axis, "R") for kind in operands]
    assert op.dims is not None
    return with_layouts(op.dims, kinds, op.infer(*kinds, **options))


def _expect_vocab_split(table: TensorType, axis: str, dim: int = 0) -> None:
    expect(table.placement(axis) == f"S({dim})", f"{axis} must split the vocabulary of {table}")


def _expect_replicated(kind: TensorType, axis: str) -> None:
    expect(kind.placement(axis) == "R", f"{kind} must be replicated over {axis}")


def _infer_embedding(tokens: TensorType, table: TensorType, *, axis: str) -> TensorType:
    _expect_vocab_split(table, axis)
    _expect_replicated(tokens, axis)
    x = _infer_unsharded(embedding, axis, tokens, table)
    assert isinstance(x, TensorType)
    return x.with_placement(axis, "P")


def _infer_embedding_gradient(
    d_x: TensorType, tokens: TensorType, *, axis: str, rows: int
) -> TensorType:
    _expect_replicated(d_x, axis)
    d_table = _infer_unsharded(embedding_gradient, axis, d_x, tokens, vocab_size=rows)
    assert isinstance(d_table, TensorType)
    return d_table.with_placement(axis, "S(0)")


def _vjp_embedding(b: GradientBuilder, node: fx.Node, d_x: fx.Node) -> tuple[fx.Node | None, ...]:
    tokens, table = node.all_input_nodes
    rows = type_of(table).shape[0]
    options = {**attributes(node), "rows": rows}
    return None, b.op(
        parallel_embedding_gradient, d_x, b.primal(tokens), name=b.name(table), **options
    )


def _infer_loss(
    logits: TensorType, labels: TensorType, *, axis: str, vocab_size: int
) -> TensorType:
    _expect_vocab_split(logits, axis, dim=2)
    loss = _infer_unsharded(cross_entropy, axis, logits, labels)
    assert isinstance(loss, TensorType)
    return loss


def _infer_loss_backward(
    d_loss: TensorType, logits: TensorType, labels: TensorType, *, axis: str, vocab_size: int
) -> TensorType:
    _expect_vocab_split(logits, axis, dim=2)
    _infer_unsharded(cross_entropy_backward, axis, d_loss, logits, labels)
    return logits


def _vjp_loss(b: GradientBuilder, node: fx.Node, d_loss: fx.Node) -> tuple[fx.Node | None, ...]:
    logits, labels = node.all_input_nodes
    primals = (b.primal(logits), b.primal(labels))
    options = attributes(node)
    name = b.name(logits)
    return b.op(parallel_cross_entropy_backward, d_loss, *primals, name=name, **options), None


def _infer_linear(
    x: TensorType,
    weight: TensorType,
    labels: TensorType,
    *,
    chunk: int,
    axis: str,
    vocab_size: int,
) -> Types:
    _expect_vocab_split(weight, axis)
    _expect_replicated(x, axis)
    return _infer_unsharded(linear_cross_entropy, axis, x, weight, labels, chunk=chunk)


def _infer_with_gradients(
    x: TensorType,
    weight: TensorType,
    labels: TensorType,
    *,
    chunk: int,
    axis: str,
    vocab_size: int,
) -> tuple[TensorType, ...]:
    _expect_vocab_split(weight, axis)
    _expect_replicated(x, axis)
    found = _infer_unsharded(
        linear_cross_entropy_with_gradients, axis, x, weight, labels, chunk=chunk
    )
    assert isinstance(found, tuple)
    loss, d_x, d_weight = found
    return loss, d_x.with_placement(axis, "P"), d_weight.with_placement(axis, "S(0)")


def _infer_with_gradients_of_x(
    *operands: TensorType, axis: str, **options: Any
) -> tuple[TensorType, ...]:
    return _infer_with_gradients(*operands, axis=axis, **options)[:2]


def _vjp_with_gradients(
    b: GradientBuilder, node: fx.Node, d_loss: fx.Node, *_unused: fx.Node | None
) -> tuple[fx.Node | None, ...]:
    x, weight, _labels = node.args
    d_x = b.op(scale, b.primal_result(node, 1), d_loss, name=b.name(x))
    return d_x, b.op(scale, b.primal_result(node, 2), d_loss, name=b.name(weight)), None


parallel_embedding = Op(
    "parallel_embedding", _infer_embedding, runtime.parallel_embedding, vjp=_vjp_embedding
)
parallel_embedding_gradient = Op(
    "parallel_embedding_gradient", _infer_embedding_gradient, runtime.parallel_embedding_gradient
)
parallel_cross_entropy = Op(
    "parallel_cross_entropy", _infer_loss, runtime.parallel_cross_entropy, vjp=_vjp_loss
)
parallel_cross_entropy_backward = Op(
    "parallel_cross_entropy_backward",
    _infer_loss_backward,
    runtime.parallel_cross_entropy_backward,
)
parallel_linear_cross_entropy_with_gradients = Op(
    "parallel_linear_cross_entropy_with_gradients",
    _infer_with_gradients,
    runtime.parallel_linear_cross_entropy_with_gradients,
    vjp=_vjp_with_gradients,
    flops=lambda x, weight, labels, chunk, axis, vocab_size: 6 * math.prod(x) * weight[0],
    cost="save",
    results=("loss", "d_x_per_loss", "d_weight_per_loss"),
)
parallel_linear_cross_entropy_with_gradients_of_x = Op(
    "parallel_linear_cross_entropy_with_gradients_of_x",
    _infer_with_gradients_of_x,
    runtime.parallel_linear_cross_entropy_with_gradients_of_x,
    vjp=vjp_with_gradients_of_x,
    flops=lambda x, weight, labels, chunk, axis, vocab_size: 4 * math.prod(x) * weight[0],
    cost="save",
    results=("loss", "d_x_per_loss"),
)
parallel_linear_cross_entropy = Op(
    "parallel_linear_cross_entropy",
    _infer_linear,
    runtime.parallel_linear_cross_entropy,
    flops=lambda x, weight, labels, chunk, axis, vocab_size: 2 * math.prod(x) * weight[0],
    cost="save",
    augmented=(
        parallel_linear_cross_entropy_with_gradients_of_x,
        parallel_linear_cross_entropy_with_gradients,
    ),
)


def _infer_drop_padding(x: TensorType, *, size: int) -> TensorType:
    width = x.shape[-1]
    expect(isinstance(width, int) and size <= width, f"{x} has fewer than {size} features")
    return x.with_shape(*x.shape[:-1], size)


drop_padding = Op(
    "drop_padding",
    _infer_drop_padding,
    lambda x, size: x[..., :size],
    emit=lambda x, size: f"{x}[..., :{size}]",
    dims="bsV->bsV",
    cost="view",
)
