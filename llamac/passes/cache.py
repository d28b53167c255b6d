"""cache: the model's forward regions → those that generate text with a cache of keys and values.

`prefill` reads whole prompts, from position 0; `decode` reads what comes next, each row at its own
positions. Both keep keys and values for what follows. Neither is ever differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import fx

from llamac.ir.graph import (
    Builder,
    attributes,
    finish,
    is_op,
    op_of,
    operands,
    ops_in,
    placeholders,
    sort_placeholders,
    type_of,
)
from llamac.ir.program import Program, Region
from llamac.ir.types import TensorType
from llamac.ops.attention import attention
from llamac.ops.cache import cache_append, cache_fill, cache_mask, cached_attention
from llamac.ops.elementwise import add
from llamac.ops.embedding import embedding
from llamac.passes.rebuild import Rebuild

POSITIONS = TensorType("i64", ("B", "S"))
SLOTS = TensorType("i64", ("C",))
SEEN = TensorType("bool", ("B", "S", "C"))


@dataclass(frozen=True)
class Cache:
    """Takes a Program of one rank whose kernels are chosen. C: the positions that a cache holds.

    Regions: `embed`, `prefill`, `decode`, `logits`, and `visible`, which finds once a step the
    cached positions that decoding queries see.
    """

    name: str = "cache"

    def apply(self, program: Program) -> Program:
        block = program.regions[program.layers[0]]
        [site] = (node for node in ops_in(block.forward.graph) if is_op(node, attention))
        regions = (
            Region("embed", _Embed(program.regions["embed"]).forward()),
            Region("prefill", _Prefill(block).forward()),
            _visible(site),
            Region("decode", _Decode(block).forward()),
            program.regions["logits"],
        )
        return replace(
            program,
            symbols={**program.symbols, "C": program.symbols["S"]},
            regions={region.name: region for region in regions},
            layers=("decode",) * len(program.layers),
        )


class _Cached(Rebuild):
    """A block's forward graph with caches of keys and values."""

    def forward(self) -> fx.GraphModule:
        graph = super().forward().graph
        for node in placeholders(graph, "constant"):
            if not node.users:  # where a document starts, which the mask says
                graph.erase_node(node)
        sort_placeholders(graph, like=graph)
        return finish(graph)

    def placeholder(self, name: str, kind: TensorType, role: Any = "constant") -> fx.Node:
        """Return the placeholder of this name, made where it is first needed."""
        for node in placeholders(self.build.graph, role):
            if node.name == name:
                return node
        return self.build.placeholder(name, kind, role)

    def cache(self, which: str, new: fx.Node) -> fx.Node:
        batch, _length, heads, head_dim = type_of(new).shape
        kind = type_of(new).with_shape(batch, heads, "C", head_dim)
        return self.placeholder(f"{which}_cache", kind, "cache")


class _Embed(_Cached):
    """Learned positions are looked up: a row may be at any."""

    def add_positions(self, node: fx.Node) -> Any:
        x, table = self.new(node)
        at = self.placeholder("positions", POSITIONS)
        rows = self.build.op(embedding, at, table, name="position_rows")
        return self.build.op(add, x, rows, name=node.name)

    rules: ClassVar = {"add_positions": add_positions}


class _Prefill(_Cached):
    """Attends within the prompt, by the kernel chosen for training where any device has it."""

    def attention(self, node: fx.Node) -> Any:
        q, k, v, *starts = self.new(node)
        kept = [
            self.build.op(cache_fill, new, self.cache(which, new), name=f"{which}_kept")
            for which, new in (("k", k), ("v", v))
        ]
        kernel = "math" if node.kwargs["kernel"] == "math" else "sdpa"
        given = {**attributes(node), "kernel": kernel}
        names = ("context", "logsumexp")
        return self.build.op(op_of(node), q, *kept, *starts, name=names, **given)

    rules: ClassVar = {"attention": attention}


class _Decode(_Cached):
    """Attends to the caches, where each row has its own positions."""

    def placeholder_type(self, node: fx.Node) -> TensorType:
        kind = type_of(node)
        if node.meta["role"] == "constant" and node.name.startswith("rope_"):
            return kind.with_shape("B", *kind.shape)
        return kind

    def attention(self, node: fx.Node) -> Any:
        q, k, v, *_starts = self.new(node)
        at, seen = self.placeholder("positions", POSITIONS), self.placeholder("seen", SEEN)
        keys, values = (
            self.build.op(cache_append, new, self.cache(which, new), at, name=name)
            for which, new, name in (("k", k, "keys"), ("v", v, "values"))
        )
        scale = node.kwargs["scale"]
        context = self.build.op(
            cached_attention, q, keys, values, seen, scale=scale, name="context"
        )
        return context, None

    rules: ClassVar = {"attention": attention}


def _visible(site: fx.Node) -> Region:
    """Write the region that finds what decoding queries see, from the block's attention."""
    g = Builder()
    g.where = site.meta["where"]
    at, slots = g.placeholder("positions", POSITIONS), g.placeholder("slots", SLOTS, "constant")
    starts = [g.placeholder("starts", POSITIONS, "constant")] if operands(site)[3:] else []
    window = {key: value for key, value in attributes(site).items() if key == "window"}
    return Region("visible", g.output(g.op(cache_mask, at, slots, *starts, **window, name="seen")))
