"""Views, which copy no data (split_heads, merge_heads, split), and concat, the adjoint of split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _split_heads(x: Tensor, head_dim: int) -> Tensor:
    return x.unflatten(-1, (-1, head_dim))


def _infer_split_heads(x: TensorType, *, head_dim: int) -> TensorType:
    width = x.shape[-1]
    assert isinstance(width, int)
    expect(width % head_dim == 0, f"{x} does not divide into heads of {head_dim}")
    return x.with_shape(*x.shape[:-1], width // head_dim, head_dim)


def _vjp_split_heads(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    return (b.op(merge_heads, d_y, name=b.name(node.args[0])),)


def _merge_heads(x: Tensor) -> Tensor:
    return x.flatten(-2)


def _infer_merge_heads(x: TensorType) -> TensorType:
    heads, head_dim = x.shape[-2:]
    assert isinstance(heads, int)
    assert isinstance(head_dim, int)
    return x.with_shape(*x.shape[:-2], heads * head_dim)


def _vjp_merge_heads(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    (x,) = node.args
    head_dim = x.meta["type"].shape[-1]  # type: ignore[union-attr]
    return (b.op(split_heads, d_y, head_dim=head_dim, name=b.name(x)),)


def _split(x: Tensor, sizes: tuple[int, ...], dim: int) -> tuple[Tensor, ...]:
    return x.split(sizes, dim)


def _infer_split(x: TensorType, *, sizes: tuple[int, ...], dim: int) -> tuple[TensorType, ...]:
    expect(
        x.shape[dim] == sum(sizes), f"{x} has {x.shape[dim]} along {dim}, the parts {sum(sizes)}"
    )
    parts = []
    for size in sizes:
        shape = list(x.shape)
        shape[dim] = size
        parts.append(x.with_shape(*shape))
    return tuple(parts)


def _vjp_split(
    b: GradientBuilder, node: fx.Node, *d_parts: fx.Node | None
) -> tuple[fx.Node | None, ...]:
    assert all(d_parts), "every part of a split must have a reader"
    return (b.op(concat, *d_parts, dim=node.kwargs["dim"], name=b.name(node.args[0])),)


def _concat(*parts: Tensor, dim: int) -> Tensor:
    return torch.cat(parts, dim)


def _infer_concat(*parts: TensorType, dim: int) -> TensorType:
    sizes = [part.shape[dim] for part in parts]
    assert all(isinstance(size, int) for size in sizes)
    shape = list(parts[0].shape)
    shape[dim] = sum(size for size in sizes if isinstance(size, int))
    return parts[0].with_shape(*shape)


split_heads = Op(
    "split_heads",
    _infer_split_heads,
    _split_heads,
    vjp=_vjp_split_heads,
    emit=lambda x, head_dim: f"{x}.unflatten(-1, (-1, {head_dim}))",
    dims="bsh->bshD",
    cost="view",
)
merge_heads = Op(
    "merge_heads",
    _infer_merge_heads,
    _merge_heads,
    vjp=_vjp_merge_heads,
    emit=lambda x: f"{x}.flatten(-2)",
    dims="bshD->bsh",
    cost="view",
)
split = Op(
    "split",
    _infer_split,
    _split,
    vjp=_vjp_split,
    emit=lambda x, sizes, dim: f"{x}.split({sizes}, dim={dim})",
    dims="*->*",
    cost="view",
)
concat = Op(
    "concat",
    _infer_concat,
    _concat,
    emit=lambda *parts, dim: f"torch.cat(({', '.join(parts)}), dim={dim})",
    dims="*->*",
)
