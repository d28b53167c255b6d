"""embedding: looks up rows of a table by token id; add_positions: adds position embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect
from llamac.runtime.kernels import embedding as runtime

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _infer(tokens: TensorType, table: TensorType) -> TensorType:
    expect(tokens.dtype == "i64", f"token ids must be i64, not {tokens}")
    return table.with_shape(*tokens.shape, table.shape[1])


def _vjp(b: GradientBuilder, node: fx.Node, d_x: fx.Node) -> tuple[fx.Node | None, ...]:
    tokens, table = node.args
    vocab_size = table.meta["type"].shape[0]  # type: ignore[union-attr]
    d_table = b.op(
        embedding_gradient, d_x, b.primal(tokens), vocab_size=vocab_size, name=b.name(table)
    )
    return None, d_table


def _infer_positions(x: TensorType, table: TensorType) -> TensorType:
    expect(table.shape[1:] == x.shape[2:], f"positions {table} do not fit {x}")
    return x


def _vjp_positions(b: GradientBuilder, node: fx.Node, d_x: fx.Node) -> tuple[fx.Node | None, ...]:
    _x, table = node.args
    positions = table.meta["type"].shape[0]  # type: ignore[union-attr]
    return d_x, b.op(position_gradient, d_x, positions=positions, name=b.name(table))


embedding = Op(
    "embedding",
    _infer,
    lambda tokens, table: F.embedding(tokens, table),
    vjp=_vjp,
    emit=lambda tokens, table: f"F.embedding({tokens}, {table})",
    dims="bs,VD->bsD",
)
embedding_gradient = Op(
    "embedding_gradient",
    infer=lambda d_x, tokens, vocab_size: d_x.with_shape(vocab_size, d_x.shape[-1]),
    eager=runtime.embedding_gradient,
    dims="bsD,bs->VD",
)
add_positions = Op(
    "add_positions",
    _infer_positions,
    runtime.add_positions,
    vjp=_vjp_positions,
    dims="bsD,sD->bsD",
)
position_gradient = Op(
    "position_gradient",
    infer=lambda d_x, positions: d_x.with_shape(positions, d_x.shape[-1]),
    eager=runtime.position_gradient,
    dims="bsD->sD",
)
