"""Helpers that build and read fx graphs of typed ops.

A node carries `meta["type"]` (a TensorType, or a tuple of them for an op with several results),
`meta["where"]` (the spec's file:line it came from) and, for placeholders, `meta["role"]`:
`input`, `constant` (a table no gradient flows to), `cache` (keys or values of earlier positions,
which an op updates in place), `param` (with `meta["param"]`, the parameter's name), `saved` or
`cotangent`.
An op with several results is followed by one `getitem` node for each result that is used.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal, TypeGuard

from torch import fx, nn

from llamac.ir.layout import with_layouts
from llamac.ir.op import Op
from llamac.ir.types import DTYPES, TensorType, TypeRuleError, Types

Role = Literal["input", "cache", "constant", "param", "saved", "cotangent"]


def is_op(node: Any, *ops: Op) -> TypeGuard[fx.Node]:
    """Return whether a node calls one of `ops`; without `ops`, whether it calls any op."""
    if not (
        isinstance(node, fx.Node) and node.op == "call_function" and isinstance(node.target, Op)
    ):
        return False
    return not ops or node.target in ops


def is_result(node: fx.Node) -> bool:
    """Return whether a node selects one result of a multi-result op."""
    return node.op == "call_function" and node.target is operator.getitem


def op_of(node: fx.Node) -> Op:
    """Return the op that an op node calls."""
    assert isinstance(node.target, Op), node
    return node.target


def operands(node: fx.Node) -> tuple[Any, ...]:
    """Return an op node's operands: values, or None for an absent optional operand."""
    return tuple(node.args)


def attributes(node: fx.Node) -> dict[str, Any]:
    """Return an op node's attributes by name."""
    return dict(node.kwargs)


def producer(value: fx.Node) -> tuple[fx.Node, int]:
    """Return the op or placeholder that produces a value, and the index of the result."""
    if is_result(value):
        source, index = operands(value)
        return source, index
    return value, 0


def results(node: fx.Node) -> tuple[fx.Node | None, ...]:
    """Return an op's values: its node, or one getitem node per result (None if none reads it)."""
    types = node.meta["type"]
    if isinstance(types, TensorType):
        return (node,)
    found: list[fx.Node | None] = [None] * len(types)
    for user in node.users:
        if is_result(user):
            found[producer(user)[1]] = user
    return tuple(found)


def type_of(value: fx.Node) -> TensorType:
    """Return the type of a value. An op with several results has no single type: select one."""
    kind = value.meta["type"]
    assert isinstance(kind, TensorType), f"{value} has several results; select one"
    return kind


def ops_in(graph: fx.Graph) -> Iterator[fx.Node]:
    """Return the op nodes of a graph, in order."""
    return (node for node in graph.nodes if is_op(node))


def placeholders(graph: fx.Graph, *roles: Role) -> list[fx.Node]:
    """Return the graph's placeholders of the given roles (all, if none is given), in order."""
    return [
        node
        for node in graph.nodes
        if node.op == "placeholder" and (not roles or node.meta["role"] in roles)
    ]


def is_differentiable(placeholder: fx.Node) -> bool:
    """Return whether a placeholder has a gradient; token ids and constant tables have none."""
    floating = DTYPES[type_of(placeholder).dtype].is_floating_point
    return floating and placeholder.meta["role"] in ("param", "input")


def recomputed_ops(backward: fx.Graph) -> frozenset[fx.Node]:
    """Return a backward graph's recomputed forward ops: those that no cotangent flows into."""
    flowing: set[fx.Node] = set()
    for node in backward.nodes:
        if node.meta.get("role") == "cotangent" or flowing.intersection(node.all_input_nodes):
            flowing.add(node)
    return frozenset(node for node in ops_in(backward) if node not in flowing)


def output_of(graph: fx.Graph) -> Any:
    """Return the graph's output: a node (forward) or {name: gradient node} (backward)."""
    return graph.output_node().args[0]


class Builder:
    """Builder that adds typed nodes at a graph's insertion point.

    where: source of nodes added without one of their own, `file:line` of the spec.
    """

    def __init__(self, graph: fx.Graph | None = None) -> None:
        self.graph = graph if graph is not None else fx.Graph()
        self.where = ""

    def placeholder(
        self, name: str, kind: TensorType, role: Role = "input", param: str = "", where: str = ""
    ) -> fx.Node:
        """Add an input of the graph and return it. param: the parameter's name, for that role."""
        node = self.graph.create_node("placeholder", name, name=name)
        node.meta.update(type=kind, role=role, where=where or self.where)
        if role == "param":
            node.meta["param"] = param
        return node

    def op(
        self,
        op: Op,
        *operands: fx.Node | None,
        name: str | tuple[str, ...] | None = None,
        where: str = "",
        **attributes: Any,
    ) -> Any:
        """Add a call of `op` and return its value, or a tuple of values for several results.

        name: of the value or values; default: the op's. Raises TypeRuleError for operands that the
        op does not accept.
        """
        types = infer(op, operands, attributes)
        several = isinstance(types, tuple)
        label = name if isinstance(name, str) else op.name
        node = self.graph.create_node("call_function", op, tuple(operands), attributes, name=label)
        node.meta.update(type=types, where=where or self.where)
        if not several:
            return node
        names = name if isinstance(name, tuple) else op.results
        return tuple(self.result(node, i, names[i]) for i in range(len(types)))

    def result(self, node: fx.Node, index: int, name: str) -> fx.Node:
        """Add and return the node `name` that selects result `index` of a multi-result op."""
        value = self.graph.create_node("call_function", operator.getitem, (node, index), name=name)
        value.meta.update(type=node.meta["type"][index], where=node.meta["where"])
        return value

    def output(self, value: Any) -> fx.GraphModule:
        """Set the graph's output, remove unused ops and return the executable module.

        value: as `output_of` returns it.
        """
        self.graph.output(value)
        return finish(self.graph)


def infer(op: Op, operands: tuple[Any, ...], attributes: dict[str, Any]) -> Types:
    """Return the types of an op's results, layouts included, from the types of its operand nodes.

    Raises TypeRuleError, which names the op and its operands' types.
    """
    kinds = [None if operand is None else type_of(operand) for operand in operands]
    try:
        types = op.infer(*kinds, **attributes)
        return types if op.dims is None else with_layouts(op.dims, kinds, types)
    except TypeRuleError as error:
        shown = ", ".join("none" if kind is None else str(kind) for kind in kinds)
        raise TypeRuleError(f"{op.name}({shown}): {error}") from None


def finish(
    graph: fx.Graph, keep: Collection[str] = (), unread: Collection[Role] = ()
) -> fx.GraphModule:
    """Remove unused ops from the graph, in place, and return it as an executable module.

    keep: names of values that another graph reads, so that their ops stay. unread: roles whose
    unused placeholders are removed too; the others stay, since they are the signature.
    """
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and node.name not in keep:
            graph.erase_node(node)
    for node in placeholders(graph, *unread) if unread else ():
        if not node.users:
            graph.erase_node(node)
    graph.lint()
    return fx.GraphModule(nn.Module(), graph)


def rename(node: fx.Node, name: str) -> None:
    """Rename a node; unlike fx's own rename, this may reuse the name of an erased node."""
    node.name = name


def copy_graph(module: fx.GraphModule) -> fx.Graph:
    """Return a copy of the graph with the same node names and types, for a pass to rewrite."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return graph


def sort_placeholders(graph: fx.Graph, like: fx.Graph) -> None:
    """Move placeholders to the graph's front, by role and then in the order of `like`, in place.

    like: the forward graph, whose values have the placeholders' names.
    """
    roles = ("cotangent", "input", "saved", "cache", "constant", "param")
    order = {node.name: index for index, node in enumerate(like.nodes)}
    nodes = sorted(
        placeholders(graph), key=lambda n: (roles.index(n.meta["role"]), order.get(n.name, -1))
    )
    for node in reversed(nodes):
        graph._root.append(node)


def rewrite(module: fx.GraphModule, change: Callable[[fx.Graph], object]) -> fx.GraphModule:
    """Return a module of a copy of the graph that `change` has edited; unused ops are removed."""
    graph = copy_graph(module)
    change(graph)
    return finish(graph)
