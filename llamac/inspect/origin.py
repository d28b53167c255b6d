"""Match backward ops with the forward ops that they recompute or differentiate, by value names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from llamac.ir.graph import is_op, op_of, ops_in, placeholders, producer, recomputed_ops
from llamac.ir.program import Region
from llamac.ir.values import forward_by_name, values_of
from llamac.ops.elementwise import add


def origins(region: Region) -> dict[fx.Node, fx.Node]:
    """Map each backward op to the forward op that it recomputes or whose gradient it computes.

    An op that sums the gradients of a value from several readers is mapped to the node that
    computes the value, which for an input is its placeholder. Ops whose values match no forward
    value by name are left out.
    """
    assert region.backward is not None, f"{region.name} has no backward graph"
    graph = region.backward.graph
    values, recomputed = forward_by_name(region), recomputed_ops(graph)
    nodes = {node.name: node for node in placeholders(region.forward.graph)} | values
    found: dict[fx.Node, fx.Node] = {}
    for node in ops_in(graph):
        owners = _recomputed(node, values) if node in recomputed else _differentiated(node, nodes)
        if (owner := next(owners, None)) is not None:
            found[node] = owner
    return found


def _recomputed(node: fx.Node, values: Mapping[str, fx.Node]) -> Iterator[fx.Node]:
    """Yield the forward ops that compute values of the same names as an op's results.

    The start of a collective corresponds to the forward op of its wait.
    """
    for value in (*values_of(node), *node.users):
        if value.name in values:
            yield producer(values[value.name])[0]


def _differentiated(node: fx.Node, nodes: Mapping[str, fx.Node]) -> Iterator[fx.Node]:
    for value in values_of(node):
        owner = _owner(value.name, node, nodes)
        if owner is not None:
            yield owner


def _owner(name: str, node: fx.Node, nodes: Mapping[str, fx.Node]) -> fx.Node | None:
    """Return the owner of a gradient `d_x`, `d_x_from_y`, or `d_x_started` of a collective."""
    stem, _, reader = name.removeprefix("d_").partition("_from_")
    if reader in nodes:
        return producer(nodes[reader])[0]
    value = nodes.get(stem) or nodes.get(stem.removesuffix("_started"))
    if value is None:
        return None
    readers = [user for user in value.users if is_op(user)]
    maker, _ = producer(value)
    if is_op(node, add):  # the sum of the gradients from all readers
        return maker
    alike = [one for one in [*readers, maker] if one.op == "call_function"]
    named = [one for one in alike if op_of(node).name.startswith(op_of(one).name)]
    if named:
        return max(named, key=lambda one: len(op_of(one).name))
    return readers[0] if len(readers) == 1 else maker
