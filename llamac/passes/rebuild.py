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
    """Base class of rewriters that copy a forward graph op by op, with the same names.

    A subclass sets `rules`: op name → rule. `rule(self, node)` adds ops to `self.build` and returns
    the value that replaces the op's result, or a tuple of values for several results. Ops without a
    rule are copied, with types inferred from the new operands.

    build: builder of the new graph. values: new node, or tuple of nodes, by old node.
    """

    rules: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    def __init__(self, region: Region) -> None:
        self.region = region
        self.build = Builder()
        self.values: dict[fx.Node, Any] = {}  # old → new

    def rebuild(self) -> fx.GraphModule:
        """Rebuild the region's forward graph with the rules and return it as a module.

        Raises TypeRuleError if an op does not accept its new operands.
        """
        for node in self.region.forward.graph.nodes:
            self.build.where = node.meta.get("where", "")
            if node.op == "placeholder":
                kind, meta = self.placeholder_type(node), node.meta
                self.values[node] = self.build.placeholder(
                    node.name, kind, meta["role"], param=meta.get("param", "")
                )
            elif is_op(node):
                rule = self.rules.get(op_of(node).name)
                self.values[node] = rule(self, node) if rule else self.copy_op(node)
            elif is_result(node):
                source, index = producer(node)
                self.values[node] = self.values[source][index]
        return self.build.output(self.values[output_of(self.region.forward.graph)])

    def placeholder_type(self, node: fx.Node) -> TensorType:
        """Return the type of the placeholder that replaces `node`; by default its own type."""
        return type_of(node)

    def new(self, node: fx.Node) -> tuple[Any, ...]:
        """Return the new graph's values for the operands of an old graph's op; None stays None."""
        return tuple(value and self.values[value] for value in operands(node))

    def copy_op(self, node: fx.Node, **changed: Any) -> Any:
        """Copy an op to the new graph and return its value, or a tuple of values.

        changed: attributes to replace.
        """
        name = result_names(node) if isinstance(node.meta["type"], tuple) else node.name
        return self.build.op(
            op_of(node), *self.new(node), name=name, **{**attributes(node), **changed}
        )


def result_names(node: fx.Node) -> tuple[str, ...]:
    """Return the names of an op's results; unused ones have the op's default name, or `_`."""
    usual = op_of(node).results or ("_",) * len(results(node))
    return tuple(
        name if value is None else value.name
        for value, name in zip(results(node), usual, strict=True)
    )
