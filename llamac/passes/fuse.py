"""fuse: merges neighbouring memory-bound ops into ops with their own backward.

Each rewrite is a function of one node, whose docstring gives the pattern that it replaces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import fx

from llamac.ir.graph import (
    Builder,
    attributes,
    is_op,
    is_result,
    operands,
    ops_in,
    producer,
    rename,
    results,
    rewrite,
    type_of,
)
from llamac.ir.program import Program
from llamac.ops.activation import packed_swiglu, silu, swiglu
from llamac.ops.cross_entropy import cross_entropy, linear_cross_entropy
from llamac.ops.elementwise import add, mul
from llamac.ops.linear import linear
from llamac.ops.log_probability import linear_log_probability, log_probability
from llamac.ops.norm import add_rms_norm, rms_norm
from llamac.ops.rope import rope
from llamac.ops.views import split, split_heads


@dataclass(frozen=True)
class Fuse:
    """Pass that fuses ops: add + RMSNorm, SwiGLU, rotation of q and k, output projection + loss.

    loss_chunk: tokens per block of logits in the fused loss.
    """

    loss_chunk: int
    name: str = "fuse"

    def apply(self, program: Program) -> Program:
        rewrites = (_add_rms_norm, _swiglu, _rope, self._projected_loss)

        def change(graph: fx.Graph) -> None:
            for one in rewrites:
                for node in list(ops_in(graph)):
                    if not node._erased:
                        one(graph, node)

        for region in program.regions.values():
            forward = rewrite(region.forward, change)
            program = program.with_region(replace(region, forward=forward))
        return program

    def _projected_loss(self, graph: fx.Graph, node: fx.Node) -> None:
        """Fuse loss(linear(x, w), labels), so that logits are never fully materialised.

        The loss is cross_entropy or log_probability.
        """
        if not is_op(node, cross_entropy, log_probability):
            return
        fused = linear_cross_entropy if is_op(node, cross_entropy) else linear_log_probability
        logits, labels = operands(node)
        if not is_op(logits, linear) or len(logits.users) > 1 or len(operands(logits)) > 2:
            return  # the logits have another reader, or the linear a bias
        x, weight = operands(logits)
        _replace(
            graph,
            node,
            lambda b, name: b.op(fused, x, weight, labels, chunk=self.loss_chunk, name=name),
        )


def _add_rms_norm(graph: fx.Graph, node: fx.Node) -> None:
    """Fuse rms_norm(x + r, w), so that the sum is normalised without another pass over memory."""
    if not is_op(node, rms_norm):
        return
    total, weight = operands(node)
    if not is_op(total, add):
        return
    build = Builder(graph)
    build.where = node.meta["where"]
    names = (total.name, node.name)
    with graph.inserting_before(node):
        new_total, normed = build.op(
            add_rms_norm, *operands(total), weight, name=("total", "normed"), **attributes(node)
        )
    _move_up_to(total, new_total)
    for old, new, name in zip((node, total), (normed, new_total), reversed(names), strict=True):
        old.replace_all_uses_with(new)
        graph.erase_node(old)
        rename(new, name)


def _move_up_to(old: fx.Node, new: fx.Node) -> None:
    """Move readers of the fused op's value behind it."""
    first = min(user for user in old.users if user is not new)
    source, _ = producer(new)
    if first < source:
        block = [source, *(value for value in results(source) if value is not None)]
        for node in block:
            first.prepend(node)


def _swiglu(graph: fx.Graph, node: fx.Node) -> None:
    """Fuse silu(gate) · up, for two tensors or the two halves of one."""
    if not is_op(node, mul):
        return
    activated, up = operands(node)
    if not is_op(activated, silu) or len(activated.users) > 1:
        return
    (gate,) = operands(activated)
    halves = _parts_of_split([gate, up])
    if halves is None:
        _replace(graph, node, lambda b, name: b.op(swiglu, gate, up, name=name))
    else:
        _replace(graph, node, lambda b, name: b.op(packed_swiglu, halves, name=name))


def _rope(graph: fx.Graph, node: fx.Node) -> None:
    """Fuse split, split_heads and rope of q and k into one rotation of qkv's first heads.

    With norms of q and k (model.qk_norm) the ropes stay separate: the norms' backward needs the
    unrotated qkv, so a rotated copy of the whole would store v twice.
    """
    if not (is_op(node, split) and len(results(node)) == 3):
        return
    flat = results(node)
    heads = [next(iter(part.users)) for part in flat if part is not None and len(part.users) == 1]
    if len(heads) != 3 or not all(is_op(one, split_heads) for one in heads):
        return
    ropes = [next(iter(one.users)) for one in heads[:2] if len(one.users) == 1]
    if len(ropes) != 2 or not all(is_op(one, rope) for one in ropes):
        return
    angles = [(operands(one)[1:], attributes(one)) for one in ropes]
    if angles[0] != angles[1] or "heads" in attributes(ropes[0]):
        return
    cos, sin = operands(ropes[0])[1:]
    counts = tuple(int(type_of(one).shape[2]) for one in heads)
    build = Builder(graph)
    build.where = ropes[0].meta["where"]
    with graph.inserting_before(node):
        qkv = build.op(split_heads, operands(node)[0], name="qkv_heads", **attributes(heads[0]))
        rotated = build.op(
            rope,
            qkv,
            cos,
            sin,
            heads=counts[0] + counts[1],
            name="qkv_rotated",
            **attributes(ropes[0]),
        )
        parts = build.op(split, rotated, sizes=counts, dim=2, name=("q_new", "k_new", "v_new"))
    old_values = [*ropes, heads[2]]
    for old, new in zip(old_values, parts, strict=True):
        old.replace_all_uses_with(new)
    graph.eliminate_dead_code()
    for which, new in zip("qkv", parts, strict=True):
        rename(new, which)


def _parts_of_split(values: list[fx.Node]) -> fx.Node | None:
    """Return the tensor whose split these values are, in order and complete, or None."""
    if not all(is_result(value) and len(value.users) == 1 for value in values):
        return None
    sources = [producer(value)[0] for value in values]
    source = sources[0]
    whole = sources == [source] * len(values) and is_op(source, split)
    if whole and list(results(source)) == values:
        packed = operands(source)[0]
        assert isinstance(packed, fx.Node)
        return packed
    return None


def _replace(graph: fx.Graph, node: fx.Node, make: Callable[[Builder, str], fx.Node]) -> None:
    """Replace an op by a new one of the same name and remove ops left without readers."""
    build = Builder(graph)
    build.where = node.meta["where"]
    with graph.inserting_before(node):
        new = make(build, "fused")
    name = node.name
    node.replace_all_uses_with(new)
    graph.eliminate_dead_code()
    rename(new, name)
