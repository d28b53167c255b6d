"""A Program as a Graphviz digraph: a cluster per graph, saved values as edges between clusters."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from llamac.ir.graph import op_of, ops_in, placeholders, producer, recomputed_ops, type_of
from llamac.ir.program import Program, Region
from llamac.ir.values import forward_by_name, operands_of, values_of


def program_dot(program: Program, stage: str, region_name: str | None = None) -> str:
    """Return the program as the text of a Graphviz digraph, for `dot -Tsvg`.

    Parameters and constant tables have no nodes; the ops that read them list them in their labels.

    stage: name of the last pass, for the title.
    region_name: region to draw; None draws all.
    """
    lines = [f"digraph {quote(program.name)} {{"]
    lines.append(f"  label={quote(f'{program.name} after {stage}')}; labelloc=t;")
    lines.append('  node [shape=box, style=filled, fillcolor=white, fontname="monospace"];')
    lines.append('  edge [fontname="monospace", fontsize=10];')
    for region in program.regions.values():
        if region_name in (None, region.name):
            lines += (f"  {line}" for line in _region(region))
    return "\n".join([*lines, "}"]) + "\n"


def quote(text: str) -> str:
    """Quote and escape a string for Graphviz; a newline starts a new line of the label."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _region(region: Region) -> Iterator[str]:
    yield from _cluster(region, "forward", region.forward.graph)
    if region.backward is None:
        return
    yield from _cluster(region, "backward", region.backward.graph)
    forward = forward_by_name(region)
    for node in placeholders(region.backward.graph, "saved"):
        source, _ = producer(forward[node.name])
        yield _edge(
            _id(region, "forward", source),
            _id(region, "backward", node),
            f"{node.name} {type_of(node)}",
            'color="#b45309", penwidth=2, constraint=false',
        )


def _cluster(region: Region, direction: str, graph: fx.Graph) -> Iterator[str]:
    yield f"subgraph {quote(f'cluster_{region.name}.{direction}')} {{"
    yield f"  label={quote(f'{region.name}.{direction}')};"
    recomputed = recomputed_ops(graph) if direction == "backward" else frozenset()
    for node in placeholders(graph, "cotangent", "input", "saved"):
        label = f"{node.meta['role']}\n{node.name}: {type_of(node)}"
        yield f"  {_id(region, direction, node)} [label={quote(label)}, shape=ellipse];"
    for node in ops_in(graph):
        looks = ', style="filled,dashed", fillcolor="#ccfbf1"' if node in recomputed else ""
        yield f"  {_id(region, direction, node)} [label={quote(_label(node))}{looks}];"
        for operand in operands_of(node):
            if operand.meta.get("role") not in ("param", "constant"):
                source, _ = producer(operand)
                label = f"{operand.name} {type_of(operand)}"
                yield "  " + _edge(
                    _id(region, direction, source), _id(region, direction, node), label
                )
    yield "}"


def _label(node: fx.Node) -> str:
    read = [one.name for one in operands_of(node) if one.meta.get("role") in ("param", "constant")]
    names = ", ".join(value.name for value in values_of(node))
    return (
        f"{op_of(node).name}({', '.join(read)})\n{names}"
        if read
        else f"{op_of(node).name}\n{names}"
    )


def _edge(source: str, target: str, label: str, looks: str = "") -> str:
    return f"{source} -> {target} [label={quote(label)}{', ' if looks else ''}{looks}];"


def _id(region: Region, direction: str, node: fx.Node) -> str:
    return quote(f"{region.name}.{direction}.{node.name}")
