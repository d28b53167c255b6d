"""Assign each op of a block to the attention or feed-forward half, for section comments."""

from __future__ import annotations

from itertools import groupby

from torch import fx

from llamac.ir.graph import ops_in, placeholders, results
from llamac.ir.program import Region

ATTENTION, FEED_FORWARD = "attention", "feed-forward"
FEW = 4
"""Fewest ops that form a section inside the other half; `overlap` moves shorter runs there."""


def forward_halves(region: Region) -> dict[fx.Node, str]:
    """Map each op of a block's forward graph to its half, `attention` or `feed-forward`.

    An op belongs to the half whose parameter it reads, else to that of its operands (feed-forward
    if they differ), else to attention. Empty for other regions.
    """
    graph = region.forward.graph
    parameters = _parameters(graph)
    halves: dict[str, str] = {}
    found: dict[fx.Node, str] = {}
    for node in ops_in(graph):
        read = [parameters[n.name] for n in node.all_input_nodes if n.name in parameters]
        before = [halves[n.name] for n in node.all_input_nodes if n.name in halves]
        half = (read or sorted(before, reverse=True) or [ATTENTION])[0]
        found[node] = half
        halves |= dict.fromkeys(_names(node), half)
    return found if len(set(found.values())) > 1 else {}


def backward_halves(region: Region) -> dict[fx.Node, str]:
    """Map each op of a block's backward graph to its half, `attention` or `feed-forward`.

    An op belongs to the half whose parameter it reads or differentiates, else to that of the
    forward value that it recomputes or differentiates, else to that of its operands (attention if
    they differ), else to that of the previous op. Empty for other regions.
    """
    assert region.backward is not None
    graph = region.backward.graph
    halves = _parameters(region.forward.graph)
    for node, half in forward_halves(region).items():
        halves |= dict.fromkeys(_names(node), half)
    parameters = _parameters(graph)
    found: dict[fx.Node, str] = {}
    half = FEED_FORWARD
    for node in ops_in(graph):
        operands = [n.name for n in node.all_input_nodes]
        made = [name for full in _names(node) for name in (full, full.removeprefix("d_"))]
        own = [parameters[name] for name in (*operands, *made) if name in parameters]
        named = [halves[name] for name in made if name in halves]
        before = sorted(halves[name] for name in operands if name in halves)
        half = (own or named or before or [half])[0]
        found[node] = half
        halves |= {name: half for name in _names(node) if name not in halves}
    return found if len(set(found.values())) > 1 else {}


def half_starts(halves: dict[fx.Node, str]) -> dict[fx.Node, str]:
    """Map the first op of each section to the name of its half.

    Fewer than `FEW` consecutive ops of a half do not start a section, unless they are the graph's
    first or last. halves: half of each op, in the graph's order.
    """
    runs = [(half, list(run)) for half, run in groupby(halves, key=lambda node: halves[node])]
    first_nodes: dict[fx.Node, str] = {}
    current = ""
    for index, (half, run) in enumerate(runs):
        stray = 0 < index < len(runs) - 1 and len(run) < FEW
        if half != current and not stray:
            first_nodes[run[0]] = current = half
    return first_nodes


def _parameters(graph: fx.Graph) -> dict[str, str]:
    """Return the half of each parameter that a graph reads, by placeholder name."""
    return {
        node.name: ATTENTION if "attention" in node.meta["param"] else FEED_FORWARD
        for node in placeholders(graph, "param")
    }


def _names(node: fx.Node) -> list[str]:
    return [value.name for value in results(node) if value is not None]
