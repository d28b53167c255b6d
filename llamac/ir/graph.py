"""Functions that build, read and edit fx graphs of typed ops.

A node carries `meta["type"]` (a TensorType, or a tuple of them for an op with several results),
`meta["where"]` (the spec's file:line it came from) and, for placeholders, `meta["role"]`:
`input`, `constant` (a table without gradient), `cache` (keys or values of earlier positions, which
an op updates in place), `param` (with `meta["param"]`, the parameter's name), `saved` or
`cotangent`. An op with several results is followed by one `getitem` node for each result that is
used.
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
"""Role of a placeholder, explained in the module's docstring."""


def is_op(node: Any, *ops: Op) -> TypeGuard[fx.Node]:
    """Return whether a node calls one of `ops`, or any op if none are given."""
    if not (
        isinstance(node, fx.Node) and node.op == "call_function" and isinstance(node.target, Op)
    ):
        return False
    return not ops or node.target in ops


def is_result(node: fx.Node) -> bool:
    """Return whether a node selects one result of a multi-result op."""
    return node.op == "call_function" and node.target is operator.getitem


def op_of(node: fx.Node) -> Op:
    """Return the op that a node calls."""
    assert isinstance(node.target, Op), node
    return node.target


def operands(node: fx.Node) -> tuple[Any, ...]:
    """Return the operands of an op node: values, or None for an absent optional operand."""
    return tuple(node.args)


def attributes(node: fx.Node) -> dict[str, Any]:
    """Return the attributes of an op node by name."""
    return dict(node.kwargs)


def producer(value: fx.Node) -> tuple[fx.Node, int]:
    """Return the op or placeholder that produces a value, and the value's index in its results."""
    if is_result(value):
        source, index = operands(value)
        return source, index
    return value, 0


def results(node: fx.Node) -> tuple[fx.Node | None, ...]:
    """Return an op's values: its node or, for several results, a getitem node or None for each.

    None stands for a result that nothing reads.
    """
    types = node.meta["type"]
    if isinstance(types, TensorType):
        return (node,)
    found: list[fx.Node | None] = [None] * len(types)
    for user in node.users:
        if is_result(user):
            found[producer(user)[1]] = user
    return tuple(found)


def type_of(value: fx.Node) -> TensorType:
    """Return the type of a value; for an op with several results, select one of them first."""
    kind = value.meta["type"]
    assert isinstance(kind, TensorType), f"{value} has several results; select one"
    return kind


def ops_in(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield the op nodes of a graph, in order."""
    return (node for node in graph.nodes if is_op(node))


def placeholders(graph: fx.Graph, *roles: Role) -> list[fx.Node]:
    """Return the graph's placeholders with the given roles, or all of them, in order."""
    return [
        node
        for node in graph.nodes
        if node.op == "placeholder" and (not roles or node.meta["role"] in roles)
    ]


def is_differentiable(placeholder: fx.Node) -> bool:
    """Return whether a placeholder has a gradient: floating-point inputs and parameters do."""
    floating = DTYPES[type_of(placeholder).dtype].is_floating_point
    return floating and placeholder.meta["role"] in ("param", "input")


def recomputed_ops(backward: fx.Graph) -> frozenset[fx.Node]:
    """Return the recomputed forward ops of a backward graph: those that depend on no cotangent."""
    flowing: set[fx.Node] = set()
    for node in backward.nodes:
        if node.meta.get("role") == "cotangent" or flowing.intersection(node.all_input_nodes):
            flowing.add(node)
    return frozenset(node for node in ops_in(backward) if node not in flowing)


def output_of(graph: fx.Graph) -> Any:
    """Return a graph's output: a node (forward), or gradient nodes by name (backward)."""
    return graph.output_node().args[0]


class Builder:
    """Builder that adds typed nodes to a graph, at its insertion point.

    graph: graph to extend; None creates one.
    where: spec location `file:line` for nodes that are added without one.
    """

    def __init__(self, graph: fx.Graph | None = None) -> None:
        self.graph = graph if graph is not None else fx.Graph()
        self.where = ""

    def placeholder(
        self, name: str, kind: TensorType, role: Role = "input", param: str = "", where: str = ""
    ) -> fx.Node:
        """Add a placeholder and return it.

        kind: type of its value. role: what the value is to the graph.
        param: name of the parameter, for the role `param`.
        where: spec location `file:line`; empty takes the builder's.
        """
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
        """Add a call of an op and return its value, or a tuple of values for several results.

        name: name of the value, or names of the values; None takes the op's.
        where: spec location `file:line`; empty takes the builder's.
        attributes: the op's keyword arguments.
        Raises TypeRuleError if the op does not accept the operands.
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
        """Add a node that selects result `index` of a multi-result op, and return it."""
        value = self.graph.create_node("call_function", operator.getitem, (node, index), name=name)
        value.meta.update(type=node.meta["type"][index], where=node.meta["where"])
        return value

    def output(self, value: Any) -> fx.GraphModule:
        """Set the graph's output, remove unused ops and return the executable module.

        value: a node, or gradient nodes by name, as for `output_of`.
        """
        self.graph.output(value)
        return finish(self.graph)


def infer(op: Op, operands: tuple[Any, ...], attributes: dict[str, Any]) -> Types:
    """Return the types of an op's results, layouts included.

    operands: nodes, or None for absent ones. attributes: keyword arguments of the op.
    Raises TypeRuleError, naming the op and the operands' types, if the op does not accept them.
    """
    kinds = [None if operand is None else type_of(operand) for operand in operands]
    try:
        types = op.infer(*kinds, **attributes)
        return types if op.dims is None else with_layouts(op.dims, kinds, types)
    except TypeRuleError as error:
        shown = ", ".join("none" if kind is None else str(kind) for kind in kinds)
        raise TypeRuleError(f"{op.name}({shown}): {error}") from None


def finish(
    graph: fx.Graph, live_out: Collection[str] = (), unused: Collection[Role] = ()
) -> fx.GraphModule:
    """Remove unused ops from the graph, in place, and return it as an executable module.

    live_out: names of values that another graph reads, whose ops are therefore not removed.
    unused: roles whose unused placeholders are also removed; those of other roles are part of the
    signature and stay.
    """
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and node.name not in live_out:
            graph.erase_node(node)
    for node in placeholders(graph, *unused) if unused else ():
        if not node.users:
            graph.erase_node(node)
    graph.lint()
    return fx.GraphModule(nn.Module(), graph)


def rename(node: fx.Node, name: str) -> None:
    """Rename a node. Unlike fx's own method, this can reuse the name of an erased node."""
    node.name = name


def copy_graph(module: fx.GraphModule) -> fx.Graph:
    """Return a copy of a module's graph, with the same names and types, for a pass to edit."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return graph


def sort_placeholders(graph: fx.Graph, like: fx.Graph) -> None:
    """Move placeholders to the front, sorted by role and then as in another graph, in place.

    The roles follow each other as cotangent, input, saved, cache, constant, param.

    like: graph whose values of the same names give the order, such as the forward graph.
    """
    roles = ("cotangent", "input", "saved", "cache", "constant", "param")
    order = {node.name: index for index, node in enumerate(like.nodes)}
    nodes = sorted(
        placeholders(graph), key=lambda n: (roles.index(n.meta["role"]), order.get(n.name, -1))
    )
    for node in reversed(nodes):
        graph._root.append(node)


def rewrite(module: fx.GraphModule, change: Callable[[fx.Graph], object]) -> fx.GraphModule:
    """Return a copy of a module whose graph `change` has edited, without unused ops.

    change: function that edits the graph in place; its result is ignored.
    """
    graph = copy_graph(module)
    change(graph)
    return finish(graph)
