"""Arrange a region as boxes in columns and rows, joined by edges, independent of pixels.

Columns, from left to right: the forward pass, downwards; its saved values; recomputation, also
downwards; gradients of weights; gradients of activations, upwards. Every backward op is in the row
of its forward op, so that edges between the passes are horizontal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import fx

from llamac.inspect.origin import origins
from llamac.ir.graph import (
    op_of,
    ops_in,
    output_of,
    placeholders,
    producer,
    recomputed_ops,
    type_of,
)
from llamac.ir.program import Program, Region
from llamac.ir.values import (
    base_of,
    forward_by_name,
    operands_of,
    operation_count,
    values_of,
)

Kind = Literal["matmul", "attention", "plain", "view", "end", "kept"]
"""Style of a box: kinds of ops, `end` for an input or output, `kept` for a saved value."""
Flow = Literal["value", "kept", "recomputed", "gradient"]
"""Style of a line: a forward value, a saved one, a recomputed one, or a gradient."""

FORWARD, SAVED, RECOMPUTED, WEIGHTS, BACKWARD = range(5)
Column = tuple[int, int]
"""(one of the columns above, position within it from the left), for parallel branches."""


@dataclass(frozen=True)
class Box:
    """A box of the diagram: an op, an input or output, or a saved value.

    key: identifier within the diagram, such as `f.qkv`. kind: style in which the box is drawn.
    lines: pairs (names of values, their type); a saved value has one pair (its size, "").
    recomputed: whether the op runs again in the backward pass.
    hover: text of the tooltip: a node's line of IR, or a saved value's type.
    """

    key: str
    column: Column
    row: int
    kind: Kind
    title: str
    lines: tuple[tuple[str, str], ...]
    recomputed: bool = False
    hover: str = ""


@dataclass(frozen=True)
class Edge:
    """A value that flows from one box to another.

    source, target: keys of the boxes. flow: what the value is, which gives the line its colour.
    """

    source: str
    target: str
    flow: Flow


@dataclass(frozen=True)
class Sheet:
    """Boxes and edges of one region's diagram. Boxes in the same column and row are stacked."""

    region: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def sheet_of(
    program: Program, region: Region, lines: dict[int, str], bytes_of: Callable[[fx.Node], str]
) -> Sheet:
    """Arrange a region's ops, inputs, outputs and saved values as a diagram.

    lines: line of IR of each node, by the node's id().
    bytes_of: function that formats the size of a saved value.
    """
    forward = _Forward(program, region, lines)
    boxes, edges = list(forward.boxes()), list(forward.edges())
    if region.backward is not None:
        backward = _Backward(program, region, forward, lines, bytes_of)
        boxes += [*backward.saved_boxes(), *backward.boxes()]
        edges += backward.edges()
    return Sheet(region.name, tuple(boxes), tuple(dict.fromkeys(edges)))


def lines_of(node: fx.Node) -> tuple[tuple[str, str], ...]:
    """Return pairs (names, type) of an op's values; values of one type share a pair."""
    by_type: dict[str, list[str]] = {}
    for value in values_of(node):
        by_type.setdefault(str(type_of(value)), []).append(value.name)
    return tuple((", ".join(names), kind) for kind, names in by_type.items())


def kind_of(node: fx.Node, program: Program) -> Kind:
    """Return the kind of an op's box: `attention`, `matmul`, `view`, or `plain` for other ops."""
    op = op_of(node)
    if op.name.startswith("attention"):
        return "attention"
    if operation_count(node, program.symbols):
        return "matmul"
    return "view" if op.cost == "view" else "plain"


def title_of(node: fx.Node) -> str:
    """Return the title of an op's box: the op's name and those of the parameters that it reads."""
    weights = [one.name for one in operands_of(node) if one.meta.get("role") == "param"]
    return f"{op_of(node).name} · {', '.join(weights)}" if weights else op_of(node).name


class _Forward:
    """Assigns rows to the forward graph: an op is one row below its lowest operand."""

    def __init__(self, program: Program, region: Region, lines: dict[int, str]) -> None:
        self.program, self.region, self.lines = program, region, lines
        graph = region.forward.graph
        inputs = placeholders(graph, "input")
        # The stream is drawn; labels, unless saved, are only in the hover text of what reads them.
        self.inputs = [n for n in inputs if n is inputs[0] or n.name in region.saved]
        self.ops = list(ops_in(graph))
        self.row: dict[fx.Node, int] = dict.fromkeys(self.inputs, 0)
        self.lane: dict[fx.Node, int] = {node: i for i, node in enumerate(self.inputs)}
        for node in self.ops:
            above = [p for p in self.sources(node) if p in self.row]
            self.row[node] = 1 + max((self.row[p] for p in above), default=0)
            # Beside a backward pass, the forward pass is one column: branches stack.
            self.lane[node] = self._free_lane(node, above) if region.backward is None else 0
        self.last = max(self.row.values()) + 1
        self.output = output_of(graph)
        self.maker, _ = producer(self.output)

    def _free_lane(self, node: fx.Node, above: list[fx.Node]) -> int:
        taken = {lane for other, lane in self.lane.items() if self.row[other] == self.row[node]}
        wished = [self.lane[p] for p in above[:1]]
        return next(lane for lane in [*wished, *range(len(taken) + 1)] if lane not in taken)

    def sources(self, node: fx.Node) -> list[fx.Node]:
        found = (producer(one)[0] for one in operands_of(node))
        return list(dict.fromkeys(p for p in found if p.op == "call_function" or p in self.inputs))

    def boxes(self) -> Iterator[Box]:
        for node in self.inputs:
            yield self.end(node, "input", (FORWARD, self.lane[node]), 0, "f")
        yield self.end(self.output, "output", (FORWARD, self.lane[self.maker]), self.last, "out")
        for node in self.ops:
            yield Box(
                f"f.{node.name}",
                (FORWARD, self.lane[node]),
                self.row[node],
                kind_of(node, self.program),
                title_of(node),
                lines_of(node),
                hover=self.lines.get(id(node), ""),
            )

    def end(self, node: fx.Node, title: str, column: Column, row: int, prefix: str) -> Box:
        shown = ((node.name, str(type_of(node))),)
        hover = self.lines.get(id(node), "")
        return Box(f"{prefix}.{node.name}", column, row, "end", title, shown, hover=hover)

    def edges(self) -> Iterator[Edge]:
        for node in self.ops:
            for source in self.sources(node):
                yield Edge(f"f.{source.name}", f"f.{node.name}", "value")
        yield Edge(f"f.{self.maker.name}", f"out.{self.output.name}", "value")


class _Backward:
    def __init__(
        self,
        program: Program,
        region: Region,
        forward: _Forward,
        lines: dict[int, str],
        bytes_of: Callable[[fx.Node], str],
    ) -> None:
        assert region.backward is not None
        self.program, self.region, self.forward = program, region, forward
        self.lines, self.bytes_of = lines, bytes_of
        self.graph = region.backward.graph
        self.by_name, self.origins = forward_by_name(region), origins(region)
        self.row_of_value = {
            name: forward.row[producer(value)[0]]
            for name, value in self.by_name.items()
            if producer(value)[0] in forward.row
        }
        self.place: dict[fx.Node, tuple[Column, int]] = {}
        row = forward.last
        recomputed = recomputed_ops(self.graph)
        for node in ops_in(self.graph):
            if node in recomputed:
                self.place[node] = (RECOMPUTED, 0), self._recomputed_row(node)
                continue
            wished = self._row_of_gradient(node)
            weights = self._only_weights(node)
            if weights:
                self.place[node] = (WEIGHTS, 0), row if wished is None else wished
                continue
            row = row if wished is None else min(wished, row)  # gradients flow up
            self.place[node] = (BACKWARD, 0), row

    def _recomputed_row(self, node: fx.Node) -> int:
        """Return the row of the recomputed forward op.

        Part of a forward op, such as the gather in a `gather_linear`, is beside its operands.
        """
        if node in self.origins:
            return self.forward.row[self.origins[node]]
        sources = [producer(operand)[0] for operand in operands_of(node)]
        return max(self.place[source][1] for source in sources if source in self.place)

    def _only_weights(self, node: fx.Node) -> bool:
        returned = output_of(self.graph)
        weights = {value for name, value in returned.items() if name in self.program.parameters}
        return all(v in weights and len(v.users) == 1 for v in values_of(node))

    def _row_of_gradient(self, node: fx.Node) -> int | None:
        """Return the row of the forward op whose gradients an op computes."""
        owner = self.origins.get(node)
        return None if owner is None else self.forward.row.get(owner)

    def saved_boxes(self) -> Iterator[Box]:
        for name in self.region.saved:
            value = self.by_name[name]
            base = base_of(value)
            size = self.bytes_of(value) if base is value else f"view of {base.name}"
            row = self.row_of_value[name]
            kind = str(type_of(value))
            yield Box(f"k.{name}", (SAVED, 0), row, "kept", name, ((size, ""),), hover=kind)

    def boxes(self) -> Iterator[Box]:
        (seed,) = placeholders(self.graph, "cotangent")
        yield self.forward.end(seed, "gradient in", (BACKWARD, 0), self.forward.last, "b")
        for node, (column, row) in self.place.items():
            yield Box(
                f"b.{node.name}",
                column,
                row,
                kind_of(node, self.program),
                title_of(node),
                lines_of(node),
                recomputed=column[0] == RECOMPUTED,
                hover=self.lines.get(id(node), ""),
            )
        for value in self._returned():
            yield self.forward.end(value, "gradient out", (BACKWARD, 0), 0, "out")

    def _returned(self) -> list[fx.Node]:
        """Return the gradients that the region before this one receives."""
        returned = output_of(self.graph).items()
        return [value for name, value in returned if name not in self.program.parameters]

    def edges(self) -> Iterator[Edge]:
        for name in self.region.saved:
            maker = producer(self.by_name[name])[0]
            yield Edge(f"f.{maker.name}", f"k.{name}", "kept")
        for node in self.place:
            for operand in operands_of(node):
                source, _ = producer(operand)
                role = source.meta.get("role")
                if role == "saved":
                    yield Edge(f"k.{source.name}", f"b.{node.name}", "kept")
                elif role == "cotangent":
                    yield Edge(f"b.{source.name}", f"b.{node.name}", "gradient")
                elif role is None:
                    recomputed = self.place[source][0][0] == RECOMPUTED
                    flow: Flow = "recomputed" if recomputed else "gradient"
                    yield Edge(f"b.{source.name}", f"b.{node.name}", flow)
        for value in self._returned():
            yield Edge(f"b.{producer(value)[0].name}", f"out.{value.name}", "gradient")
