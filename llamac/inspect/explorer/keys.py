"""Keys that identify a node in all panes: region, direction and name, such as `block.f.qkv`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import fx

from llamac.ir.graph import producer
from llamac.ir.program import Program, Region

Direction = Literal["forward", "backward"]


def graphs(program: Program) -> Iterator[tuple[Region, Direction, fx.Graph]]:
    """Yield (region, direction, graph) for each graph of a program, by region, forward first."""
    for region in program.regions.values():
        yield region, "forward", region.forward.graph
        if region.backward is not None:
            yield region, "backward", region.backward.graph


def node_key(region: str, direction: Direction, node: fx.Node) -> str:
    """Return `<region>.<f or b>.<node's name>`, which identifies a node on the page: `block.f.qkv`.

    A result of an op with several has the op's key; the output node's key ends in `return`.
    """
    maker, _ = producer(node)
    return f"{region}.{direction[0]}.{'return' if maker.op == 'output' else maker.name}"


def keys_of(program: Program) -> dict[fx.Node, str]:
    """Map every node of a program's graphs to the result of `node_key`."""
    return {
        node: node_key(region.name, direction, node)
        for region, direction, graph in graphs(program)
        for node in graph.nodes
    }
