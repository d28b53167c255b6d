"""Verifier that checks a Program after every pass and shows failures inside the IR."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import fx

from llamac.ir.graph import (
    infer,
    is_differentiable,
    is_op,
    is_result,
    op_of,
    ops_in,
    output_of,
    placeholders,
    type_of,
)
from llamac.ir.printer import graph_lines
from llamac.ir.program import Program, Region
from llamac.ir.types import TensorType, TypeRuleError


class VerificationError(Exception):
    """A rule of the IR is violated; the message is the graph's text, marked at the offending node.

    message: the rule that is violated.
    region, direction: the graph to show, with direction `forward` or `backward`.
    node: the offending node; None puts the message at the end.
    exit_code: exit code of a command that ends with this error.
    """

    exit_code = 3

    def __init__(self, message: str, region: Region, direction: str, node: fx.Node | None) -> None:
        self.message = message
        lines = []
        marked = False
        for line, shown in graph_lines(region, direction):
            lines.append(line)
            if node is not None and shown is node:
                indent = len(line) - len(line.lstrip())
                lines.append(f"{' ' * indent}{'^' * (len(line) - indent)} {message}")
                marked = True
        if not marked:
            lines.append(f"^^^ {message}")
        super().__init__("\n".join(lines))


def verify(program: Program) -> None:
    """Check all rules of the IR, and raise an error at the first violation.

    Raises VerificationError if it lies in a graph, and ValueError if it lies in the layer list, the
    pipeline stages or the parameter table.
    """
    for region in program.regions.values():
        for rule in RULES:
            rule(program, region)
    _verify_layers(program)


def _graphs(region: Region) -> Iterator[tuple[str, fx.Graph]]:
    yield "forward", region.forward.graph
    if region.backward is not None:
        yield "backward", region.backward.graph


def _single_assignment(_program: Program, region: Region) -> None:
    for direction, graph in _graphs(region):
        defined: set[fx.Node] = set()
        for node in graph.nodes:
            for operand in node.all_input_nodes:
                if operand not in defined:
                    raise VerificationError(
                        f"%{operand.name} is used before it is defined", region, direction, node
                    )
            defined.add(node)


def _types(_program: Program, region: Region) -> None:
    for direction, graph in _graphs(region):
        for node in ops_in(graph):
            try:
                kind = infer(op_of(node), node.args, dict(node.kwargs))
            except TypeRuleError as error:
                raise VerificationError(str(error), region, direction, node) from None
            if kind != node.meta["type"]:
                raise VerificationError(
                    f"recorded type {_show(node.meta['type'])}, but the op infers {_show(kind)}",
                    region,
                    direction,
                    node,
                )
        for node in graph.nodes:
            if is_result(node):
                source, index = node.args
                if type_of(node) != source.meta["type"][index]:
                    raise VerificationError("a result has no type", region, direction, source)


def _show(kind: object) -> str:
    return ", ".join(map(str, kind)) if isinstance(kind, tuple) else str(kind)


def _async_pairs(_program: Program, region: Region) -> None:
    """Check that a started collective has one reader: its wait, on the same axis and dim."""
    for direction, graph in _graphs(region):
        for node in ops_in(graph):
            kind, half, *over = _half(node)
            if half == "start":
                expected = [(kind, "wait", *over)]
                if [_half(user) for user in node.users] != expected or node.name in region.saved:
                    message = f"its only reader must be one {kind}_wait on the same axis"
                    raise VerificationError(message, region, direction, node)
            elif half == "wait" and _half(node.all_input_nodes[0]) != (kind, "start", *over):
                message = f"%{node.all_input_nodes[0].name} must be a {kind}_start on the same axis"
                raise VerificationError(message, region, direction, node)


def _half(node: fx.Node) -> tuple[object, ...]:
    """Return (collective, `start` or `wait`, axis, dim) of a start or wait op."""
    kind, _, half = op_of(node).name.rpartition("_") if is_op(node) else ("", "", "")
    return kind, half, node.kwargs.get("axis"), node.kwargs.get("dim")


def _parameters(program: Program, region: Region) -> None:
    for direction, graph in _graphs(region):
        for node in placeholders(graph, "param"):
            entry = program.parameters.get(node.meta["param"])
            if entry is None or entry.type != type_of(node):
                expected = "nothing" if entry is None else str(entry.type)
                raise VerificationError(
                    f"the parameter table has {expected} under this name", region, direction, node
                )


def _saved(_program: Program, region: Region) -> None:
    known = {node.name: node for node in region.forward.graph.nodes if node.op != "output"}
    for name in region.saved:
        if name not in known:
            raise VerificationError(
                f"%{name} is in the saved set but not a forward value", region, "forward", None
            )
    if region.backward is None:
        return
    for node in placeholders(region.backward.graph, "saved"):
        if node.name not in region.saved:
            raise VerificationError(
                f"%{node.name} is read here but not in the saved set", region, "backward", node
            )
        if type_of(node) != type_of(known[node.name]):
            raise VerificationError("saved with another type", region, "backward", node)


def _caches(_program: Program, region: Region) -> None:
    """Check that each cache placeholder is read only by the one op that updates it."""
    for direction, graph in _graphs(region):
        for node in placeholders(graph, "cache"):
            if [op_of(user).name for user in node.users] not in (["cache_fill"], ["cache_append"]):
                message = f"the cache %{node.name} must be read by the one op that updates it"
                raise VerificationError(message, region, direction, node)


def _gradients(program: Program, region: Region) -> None:
    """Check that every trained parameter and float input has one gradient of its own type.

    A parameter's gradient may be a partial sum over the ranks that hold copies of it: the trainer
    reduces it once per step (`Program.reduction_axes`).
    """
    if region.backward is None:
        return
    owed = {
        node.meta["param"] if node.meta["role"] == "param" else node.name: type_of(node)
        for node in placeholders(region.forward.graph, "input", "param")
        if is_differentiable(node) and node.meta.get("param") not in program.frozen
    }
    given = output_of(region.backward.graph)
    end = region.backward.graph.output_node()
    for name, kind in owed.items():
        if given.get(name) is None:  # a vjp rule may have given none
            raise VerificationError(f"no gradient for {name}", region, "backward", end)
        if _summed(type_of(given[name]), over=kind if name in program.parameters else None) != kind:
            raise VerificationError(
                f"the gradient of {name}: {kind} is {type_of(given[name])}", region, "backward", end
            )
    for name in given:
        if name not in owed:
            raise VerificationError(f"{name} must have no gradient", region, "backward", end)


def _summed(gradient: TensorType, over: TensorType | None) -> TensorType:
    """Return a gradient's type after reduction over the axes that replicate its parameter."""
    for axis, placement in gradient.layout:
        if over is not None and placement == "P" and over.placement(axis) == "R":
            gradient = gradient.with_placement(axis, "R")
    return gradient


def _verify_layers(program: Program) -> None:
    if program.stages and (sum(program.stages) != len(program.layers) or 0 in program.stages):
        raise ValueError(
            f"stages {program.stages} must be positive and add up to {len(program.layers)} layers"
        )
    cached = (name for name, region in program.regions.items() if _is_cached(region))
    for name in dict.fromkeys([*program.layers, *cached]):
        if name not in program.regions:
            raise ValueError(f"the layer list names an unknown region {name!r}")
        region = program.regions[name]
        stream = placeholders(region.forward.graph, "input")[0]
        out: TensorType = type_of(output_of(region.forward.graph))
        if out != type_of(stream):
            raise VerificationError(
                f"layers cannot be chained: they take {type_of(stream)} and give {out}",
                region,
                "forward",
                region.forward.graph.output_node(),
            )
    for parameter in program.parameters.values():
        rows, owed = parameter.type.shape[0], parameter.local_rows(program.mesh)
        if rows != owed:
            raise ValueError(f"{parameter.name} has {rows} rows, its pieces {owed}")


def _is_cached(region: Region) -> bool:
    """Return whether a region runs as a layer of the generation program."""
    return bool(placeholders(region.forward.graph, "cache"))


RULES: tuple[Callable[[Program, Region], None], ...] = (
    _single_assignment,
    _types,
    _async_pairs,
    _parameters,
    _saved,
    _caches,
    _gradients,
)
