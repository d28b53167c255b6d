"""Keys of nodes, which join the panes: `block.f.qkv`, region, direction and name in the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import fx

from llamac.ir.graph import producer
from llamac.ir.program import Program, Region

Direction = Literal["forward", "backward"]


def graphs(program: Program) -> Iterator[tuple[Region, Direction, fx.Graph]]:
    """Yield every graph of a program, in the order in which it is printed."""
    for region in program.regions.values():
        yield region, "forward", region.forward.graph
        if region.backward is not None:
            yield region, "backward", region.backward.graph


def key_of(region: str, direction: Direction, node: fx.Node) -> str:
    """Return the key of a node; a result of a multi-result op has the key of that op."""
    maker, _ = producer(node)
    return f"{region}.{direction[0]}.{'return' if maker.op == 'output' else maker.name}"


def keys_of(program: Program) -> dict[fx.Node, str]:
    """Return the key of every node."""
    return {
        node: key_of(region.name, direction, node)
        for region, direction, graph in graphs(program)
        for node in graph.nodes
    }
