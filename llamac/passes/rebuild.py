"""Base class for passes that rebuild a region's forward graph op by op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import fx

from llamac.ir.graph import (
    Builder,
    attributes,
    is_op,
    is_result,
    op_of,
    operands,
    output_of,
    producer,
    results,
    type_of,
)
from llamac.ir.program import Region
from llamac.ir.types import TensorType


class Rebuild:
    """Rewriter of one region's forward graph, which keeps names and infers types anew.

    A subclass sets `rules`: op name → rule; `rule(self, node)` returns the values that replace the
    op's, one node or a tuple. Other ops are copied.
    """

    rules: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    def __init__(self, region: Region) -> None:
        self.region = region
        self.build = Builder()
        self.values: dict[fx.Node, Any] = {}  # old → new

    def forward(self) -> fx.GraphModule:
        """Return the rewritten graph. Raises TypeRuleError if types do not fit."""
        for node in self.region.forward.graph.nodes:
            self.build.where = node.meta.get("where", "")
            if node.op == "placeholder":
                kind, meta = self.placeholder_type(node), node.meta
                self.values[node] = self.build.placeholder(
                    node.name, kind, meta["role"], param=meta.get("param", "")
                )
            elif is_op(node):
                rule = self.rules.get(op_of(node).name)
                self.values[node] = rule(self, node) if rule else self.same(node)
            elif is_result(node):
                source, index = producer(node)
                self.values[node] = self.values[source][index]
        return self.build.output(self.values[output_of(self.region.forward.graph)])

    def placeholder_type(self, node: fx.Node) -> TensorType:
        """Return the type of the new placeholder for `node`; by default the old one's."""
        return type_of(node)

    def new(self, node: fx.Node) -> tuple[Any, ...]:
        """Return the new graph's nodes for an old op's operands."""
        return tuple(value and self.values[value] for value in operands(node))

    def same(self, node: fx.Node, **changed: Any) -> Any:
        """Add the same op on the new operands and return its value. changed: new attributes."""
        name = result_names(node) if isinstance(node.meta["type"], tuple) else node.name
        return self.build.op(
            op_of(node), *self.new(node), name=name, **{**attributes(node), **changed}
        )


def result_names(node: fx.Node) -> tuple[str, ...]:
    """Return the names of an op's results; unused ones get default names."""
    usual = op_of(node).results or ("_",) * len(results(node))
    return tuple(
        name if value is None else value.name
        for value, name in zip(results(node), usual, strict=True)
    )
