"""rope: rotary position embedding, of all heads of a tensor or of its first ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamac.ir.graph import attributes
from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect
from llamac.runtime.kernels.rope import rope as eager

if TYPE_CHECKING:
    from torch import fx

    from llamac.ops.gradient import GradientBuilder


def _infer(
    x: TensorType,
    cos: TensorType,
    sin: TensorType,
    *,
    layout: str,
    heads: int | None = None,
    inverse: bool = False,
) -> TensorType:
    batch, length, count, head_dim = x.shape
    assert isinstance(head_dim, int)
    assert isinstance(count, int)
    expect(layout in ("interleaved", "half_split"), f"unknown layout {layout!r}")
    expect(heads is None or heads <= count, f"{x} has fewer than {heads} heads")
    half = head_dim // 2
    expect(
        cos.shape == sin.shape and cos.shape in ((length, half), (batch, length, half)),
        f"the tables must be [{length},{half}] or [{batch},{length},{half}], not {cos} and {sin}",
    )
    return x


def _vjp(b: GradientBuilder, node: fx.Node, d_y: fx.Node) -> tuple[fx.Node | None, ...]:
    # The adjoint of a rotation is the inverse rotation, which needs the angles only.
    x, cos, sin = node.args
    given = attributes(node)
    back = {**given, "inverse": not given.get("inverse", False)}
    d_x = b.op(rope, d_y, b.primal(cos), b.primal(sin), name=b.name(x), **back)
    return d_x, None, None


# Save the result, not the input: they are equally large, and attention needs rotated q and k.
rope = Op("rope", _infer, eager, vjp=_vjp, dims="bshD,sD,sD->bshD", cost="save")
