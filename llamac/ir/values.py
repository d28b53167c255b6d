"""Queries about the values and views of a region, and about the FLOPs of its ops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from llamac.ir.graph import op_of, ops_in, producer, results, type_of
from llamac.ir.program import Region


def values_of(node: fx.Node) -> tuple[fx.Node, ...]:
    """Return the nodes of an op's results: itself, or the getitem nodes if it has several results.

    Results of a multi-result op that nothing reads have no node and are left out.
    """
    return tuple(value for value in results(node) if value is not None)


def operands_of(node: fx.Node) -> tuple[fx.Node, ...]:
    """Return the distinct operand nodes of an op, in order, without absent ones."""
    return tuple(dict.fromkeys(one for one in node.args if isinstance(one, fx.Node)))


def base_of(value: fx.Node) -> fx.Node:
    """Return the value whose storage a view shares; the base of any other value is itself."""
    source, _ = producer(value)
    if source.op == "call_function" and op_of(source).cost == "view":
        return base_of(operands_of(source)[0])
    return value


def forward_values(region: Region) -> Iterator[fx.Node]:
    """Yield the inputs and the computed values of a region's forward graph, in order.

    Parameters and constant tables are left out, as they stay in memory in any case.
    """
    graph = region.forward.graph
    for node in graph.nodes:
        if node.op == "placeholder" and node.meta["role"] == "input":
            yield node
    for node in ops_in(graph):
        yield from values_of(node)


def forward_by_name(region: Region) -> dict[str, fx.Node]:
    """Return the nodes of `forward_values` by name."""
    return {value.name: value for value in forward_values(region)}


def layer_count(region: str, layers: tuple[str, ...]) -> int:
    """Return how many times a forward pass of the model runs a region: 1 if it is not a layer.

    layers: name of the region that each layer runs.
    """
    return layers.count(region) if region in layers else 1


def operation_count(node: fx.Node, symbols: Mapping[str, int]) -> float:
    """Return the FLOPs of an op node on one rank; 0 except for matmuls and attention.

    A multiply-add counts as two. symbols: size of each symbolic dimension, such as S/tp.
    """
    shapes = [
        tuple(symbols.get(dim, dim) if isinstance(dim, str) else dim for dim in type_of(one).shape)
        if isinstance(one, fx.Node)
        else None
        for one in node.args
    ]
    return op_of(node).flops(*shapes, **node.kwargs)
