"""cache: rewrites forward regions for text generation with a key-value cache.

`prefill` processes whole prompts from position 0, `decode` the tokens that follow, with separate
positions for each row. Both append keys and values to the cache. Neither is differentiated.
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
from llamac.ops.linear import packed_linear
from llamac.passes.rebuild import Rebuild

# Inputs of decoding: positions of the new tokens, numbers of the cache's slots, attention mask.
POSITIONS = TensorType("i64", ("B", "S"))
SLOTS = TensorType("i64", ("C",))
SEEN = TensorType("bool", ("B", "S", "C"))


@dataclass(frozen=True)
class Cache:
    """Pass that turns a one-rank Program, after `select_kernels`, into one that generates text.

    Its regions are `embed`, `prefill`, `decode`, `logits` and `visible`, which computes the
    attention mask of decoding once per step for all layers. The symbol C is the cache's capacity in
    positions, by default the training sequence length.

    window: the model's sliding window in positions, or None. It is given here because training's
    Program has none if no training sequence is longer than the window, while generated text may be.
    """

    window: int | None = None
    name: str = "cache"

    def apply(self, program: Program) -> Program:
        block = program.regions[program.layers[0]]
        [site] = (node for node in ops_in(block.forward.graph) if is_op(node, attention))
        regions = (
            Region("embed", _Embed(program.regions["embed"]).rebuild()),
            Region("prefill", _Prefill(block, self.window).rebuild()),
            _visible(site, self.window),
            Region("decode", _Decode(block).rebuild()),
            Region("logits", _PackLinears(program.regions["logits"]).rebuild()),
        )
        return replace(
            program,
            symbols={**program.symbols, "C": program.symbols["S"]},
            regions={region.name: region for region in regions},
            layers=("decode",) * len(program.layers),
        )


class _PackLinears(Rebuild):
    """Rewrites linears: weights stay as they are, and may be laid out for the matmul beforehand."""

    def linear(self, node: fx.Node) -> Any:
        return self.build.op(packed_linear, *self.new(node), name=node.name)

    rules: ClassVar = {"linear": linear}


class _UseCache(_PackLinears):
    """Rewrites a block's forward graph to use a key-value cache."""

    def rebuild(self) -> fx.GraphModule:
        graph = super().rebuild().graph
        for node in placeholders(graph, "constant"):
            if not node.users:  # where a document begins; the mask already contains it
                graph.erase_node(node)
        sort_placeholders(graph, like=graph)
        return finish(graph)

    def placeholder(self, name: str, kind: TensorType, role: Any = "constant") -> fx.Node:
        """Return the placeholder of this name, created on first use."""
        for node in placeholders(self.build.graph, role):
            if node.name == name:
                return node
        return self.build.placeholder(name, kind, role)

    def cache(self, which: str, new: fx.Node) -> fx.Node:
        batch, _length, heads, head_dim = type_of(new).shape
        kind = type_of(new).with_shape(batch, heads, "C", head_dim)
        return self.placeholder(f"{which}_cache", kind, "cache")


class _Embed(_UseCache):
    """Rewrites the embedding to look up learned positions, which differ by row."""

    def add_positions(self, node: fx.Node) -> Any:
        x, table = self.new(node)
        at = self.placeholder("positions", POSITIONS)
        rows = self.build.op(embedding, at, table, name="position_rows")
        return self.build.op(add, x, rows, name=node.name)

    rules: ClassVar = {"add_positions": add_positions}


class _Prefill(_UseCache):
    """Rewrites a block for prefill: attention within the prompt, by a kernel any device has."""

    def __init__(self, region: Region, window: int | None) -> None:
        super().__init__(region)
        self.window = window

    def attention(self, node: fx.Node) -> Any:
        q, k, v, *starts = self.new(node)
        kept = [
            self.build.op(cache_fill, new, self.cache(which, new), name=f"{which}_kept")
            for which, new in (("k", k), ("v", v))
        ]
        kernel = "math" if node.kwargs["kernel"] == "math" else "sdpa"
        options = {**attributes(node), "kernel": kernel, **_window_option(self.window)}
        names = ("attn_context", "logsumexp")
        return self.build.op(op_of(node), q, *kept, *starts, name=names, **options)

    rules: ClassVar = {**_PackLinears.rules, "attention": attention}


class _Decode(_UseCache):
    """Rewrites a block for decoding: attention to the cache, at each row's own positions."""

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
            cached_attention, q, keys, values, seen, scale=scale, name="attn_context"
        )
        return context, None

    rules: ClassVar = {**_PackLinears.rules, "attention": attention}


def _window_option(window: int | None) -> dict[str, Any]:
    return {} if window is None else {"window": window}


def _visible(site: fx.Node, window: int | None) -> Region:
    """Build the region `visible`, which computes the mask of the block's decoding attention."""
    g = Builder()
    g.where = site.meta["where"]
    at, slots = g.placeholder("positions", POSITIONS), g.placeholder("slots", SLOTS, "constant")
    starts = [g.placeholder("starts", POSITIONS, "constant")] if operands(site)[3:] else []
    seen = g.op(cache_mask, at, slots, *starts, **_window_option(window), name="seen")
    return Region("visible", g.output(seen))
