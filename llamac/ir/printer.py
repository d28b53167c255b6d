"""Printer of a Program as text, one line per node, which `llamac.ir.parser` reads back.

%h: f32[B,S,256] = add(%x, %attention_out)  # tiny.toml:14
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from llamac.ir.graph import op_of, ops_in, output_of, placeholders, results, type_of
from llamac.ir.program import Parameter, Piece, Program, Region
from llamac.ir.types import TensorType


def print_program(program: Program) -> str:
    """Return a Program as text, ending in a newline, which `parse_program` reads back."""
    return "\n".join([*_header(program), *_regions(program)]) + "\n"


def print_region(region: Region) -> str:
    """Return a region's forward graph and, if it has one, its backward graph as text."""
    lines = [line for line, _ in graph_lines(region, "forward")]
    if region.backward is not None:
        lines += ["", *(line for line, _ in graph_lines(region, "backward"))]
    return "\n".join(lines)


def graph_lines(region: Region, direction: str) -> Iterator[tuple[str, fx.Node | None]]:
    """Yield the lines of a printed graph, each with the node that it prints; None for its title.

    direction: `forward`, or `backward` of a differentiated region.
    """
    module = region.forward if direction == "forward" else region.backward
    assert module is not None
    yield f"{region.name}.{direction}:", None
    saved = set(region.saved) if direction == "forward" else set()
    for node in placeholders(module.graph):
        yield f"  {_placeholder(node, saved)}", node
    for node in ops_in(module.graph):
        yield f"  {_statement(node, saved)}", node
    yield f"  return {_returned(output_of(module.graph))}", module.graph.output_node()


def _header(program: Program) -> Iterator[str]:
    yield f"program {program.name}"
    yield "symbols " + " ".join(f"{name}={size}" for name, size in program.symbols.items())
    if program.mesh:
        yield "mesh " + " ".join(f"{axis}={size}" for axis, size in program.mesh.items())
    for parameter in program.parameters.values():
        kind = "parameter" if parameter.trainable else "frozen"
        yield _with_where(f"{kind} {_parameter(parameter)}", parameter.where)
    for buffer in program.buffers.values():
        arguments = ", ".join(f"{key}={value!r}" for key, value in buffer.arguments)
        yield f"buffer {buffer.name}: {buffer.type} = rope_tables({arguments})"
    for region, count in program.layer_runs:
        yield f"layers {count} × {region}"
    if program.eos is not None:
        yield f"eos {program.eos}"
    if program.stages:
        yield "stages " + " ".join(map(str, program.stages))
    for note in program.notes:
        yield f"note {note!r}"


def _parameter(parameter: Parameter) -> str:
    first = parameter.pieces[0]
    if not parameter.packed and first.rows == parameter.type.shape[0] and first.copies == 1:
        return f"{parameter.name}: {parameter.type} = {first.init}"
    pieces = ", ".join(map(_piece, parameter.pieces))
    return f"{parameter.name}: {parameter.type} = pack({pieces})"


def _piece(piece: Piece) -> str:
    copies = f" × {piece.copies}" if piece.copies > 1 else ""
    return f"{piece.name}[{piece.rows}] {piece.init}{copies}"


def _regions(program: Program) -> Iterator[str]:
    for region in program.regions.values():
        yield ""
        yield print_region(region)


def _placeholder(node: fx.Node, saved: set[str]) -> str:
    role = node.meta["role"]
    name = f"{node.meta['param']} as %{node.name}" if role == "param" else f"%{node.name}"
    mark = " {save}" if node.name in saved else ""
    return _with_where(f"{role} {name}: {type_of(node)}{mark}", node.meta["where"])


def _statement(node: fx.Node, saved: set[str]) -> str:
    values = results(node)
    kinds = node.meta["type"]
    kinds = (kinds,) if isinstance(kinds, TensorType) else kinds
    left = ", ".join(
        f"_: {kind}" if value is None else f"%{value.name}: {kind}"
        for value, kind in zip(values, kinds, strict=True)
    )
    right = [_operand(operand) for operand in node.args]
    right += [f"{key}={value!r}" for key, value in node.kwargs.items()]
    saved_names = [value.name for value in values if value is not None and value.name in saved]
    mark = ""
    if saved_names:
        mark = (
            " {save}"
            if len(values) == 1
            else f" {{save {', '.join('%' + k for k in saved_names)}}}"
        )
    return _with_where(f"{left} = {op_of(node).name}({', '.join(right)}){mark}", node.meta["where"])


def _operand(operand: Any) -> str:
    if operand is None:
        return "none"
    assert isinstance(operand, fx.Node), operand
    return operand.meta["param"] if operand.meta.get("role") == "param" else f"%{operand.name}"


def _returned(value: Any) -> str:
    if isinstance(value, fx.Node):
        return _operand(value)
    return ", ".join(f"{name}={_operand(node)}" for name, node in value.items())


def _with_where(text: str, where: str) -> str:
    return f"{text}  # {where}" if where else text
