"""Parser of the text form of a Program, the inverse of `llamac.ir.printer`.

Printing, parsing and printing again gives the same text.
"""

from __future__ import annotations

import ast
import re
from typing import Any, cast

from torch import fx

from llamac.ir.graph import Builder, Role, finish
from llamac.ir.op import OPS
from llamac.ir.program import RANDOM_INITS, Buffer, Init, Parameter, Piece, Program, Region
from llamac.ir.types import TensorType, TypeRuleError


class ParseError(Exception):
    """The text is not valid IR. If one line is at fault, the message has its number and text."""


_PARAMETER = re.compile(r"(parameter|frozen) (\S+): (\S+) = (.*)")
_PIECE = re.compile(r"(\S+)\[(\d+)\] ((?:normal|uniform)\([^)]*\)|ones|zeros)(?: × (\d+))?(?:, )?")
_BUFFER = re.compile(r"buffer (\S+): (\S+) = rope_tables\((.*)\)")
_LAYERS = re.compile(r"layers (\d+) × (\S+)")
_GRAPH = re.compile(r"(\S+)\.(forward|backward):")
_PLACEHOLDER = re.compile(
    r"(input|cache|constant|param|saved|cotangent) (?:(\S+) as )?%(\w+): ([^\s{]+)( \{save\})?"
)
_STATEMENT = re.compile(r"(.+?) = (\w+)\((.*)\)(?: \{save ?([^}]*)\})?")
_RESULT = re.compile(r"(?:%(\w+)|_): (\w+\[[^\]]*\](?:@\S+?)?)(?:, |$)")


def parse_program(text: str) -> Program:
    """Return the Program that `print_program` wrote as `text`. Raises ParseError."""
    state = _Parser()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            state.line(line)
        except (ParseError, TypeRuleError, TypeError, ValueError) as error:
            raise ParseError(f"line {number}: {error}: {line.strip()}") from None
    return state.program()


def _split_where(line: str) -> tuple[str, str]:
    # Split at the first mark only: a file name may contain it.
    text, _, where = line.partition("  # ")
    return text.rstrip(), where


def _init(text: str) -> Init:
    kind, _, std = text.removesuffix(")").partition("(")
    if kind in RANDOM_INITS and std:
        return Init(kind, float(std))
    if text not in ("ones", "zeros"):
        raise ParseError(f"unknown initialisation {text!r}")
    return Init(text)


class _GraphText:
    """Parser state of one graph."""

    def __init__(self) -> None:
        self.build = Builder()
        self.values: dict[str, fx.Node] = {}
        self.params: dict[str, fx.Node] = {}
        self.saved: list[str] = []
        self.module: fx.GraphModule | None = None

    def placeholder(self, match: re.Match[str], where: str) -> None:
        role, param, name, kind, save = match.groups()
        kind = TensorType.parse(kind)
        node = self.build.placeholder(name, kind, cast(Role, role), param or "", where)
        self._name(name, node)
        if param:
            self.params[param] = node
        if save:
            self.saved.append(name)

    def statement(self, match: re.Match[str], where: str) -> None:
        left, op_name, right, save = match.groups()
        if op_name not in OPS:
            raise ParseError(f"unknown op {op_name!r}")
        names = [m.group(1) for m in _RESULT.finditer(left)]
        if not names:
            raise ParseError("cannot parse the results")
        operands, attributes = self._arguments(right)
        node = self.build.graph.create_node(
            "call_function",
            OPS[op_name],
            tuple(operands),
            attributes,
            name=names[0] if len(names) == 1 and names[0] else op_name,
        )
        kinds = tuple(TensorType.parse(m.group(2)) for m in _RESULT.finditer(left))
        several = isinstance(OPS[op_name].infer(*[_kind(o) for o in operands], **attributes), tuple)
        node.meta.update(type=kinds if several else kinds[0], where=where)
        if several:
            for index, name in enumerate(names):
                if name is not None:
                    self._name(name, self.build.result(node, index, name))
        else:
            self._name(names[0], node)
        if save is not None:
            self.saved += re.findall(r"%(\w+)", save) or [n for n in names if n]

    def returns(self, text: str) -> None:
        if "=" not in text:
            value: Any = self._value(text)
        else:
            pairs = (item.split("=", 1) for item in text.split(", "))
            value = {name: self._value(item) for name, item in pairs}
        self.build.graph.output(value)
        self.module = finish(self.build.graph, live_out=self.saved)

    def _name(self, name: str | None, node: fx.Node) -> None:
        if name is None or name in self.values:
            raise ParseError(f"%{name} is defined twice")
        if node.name != name:
            raise ParseError(f"%{name} is reserved by Python; rename the value")
        self.values[name] = node

    def _value(self, text: str) -> fx.Node:
        table = self.values if text.startswith("%") else self.params
        key = text.removeprefix("%")
        if key not in table:
            raise ParseError(f"{text} is not defined at this point")
        return table[key]

    def _arguments(self, text: str) -> tuple[list[fx.Node | None], dict[str, Any]]:
        operands: list[fx.Node | None] = []
        rest = text
        while rest and not re.match(r"\w+=", rest):
            item, _, rest = rest.partition(", ")
            operands.append(None if item == "none" else self._value(item))
        try:
            return operands, _keywords(rest)
        except (SyntaxError, ValueError):
            raise ParseError("cannot parse the attributes") from None


def _keywords(text: str) -> dict[str, Any]:
    """Parse `a=1, b='x'` into {"a": 1, "b": "x"}."""
    call = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}


def _sizes(text: str) -> dict[str, int]:
    """Parse `B=2 S=8` into {"B": 2, "S": 8}."""
    return {name: int(size) for name, size in (pair.split("=") for pair in text.split())}


def _kind(operand: fx.Node | None) -> Any:
    return None if operand is None else operand.meta["type"]


class _Parser:
    def __init__(self) -> None:
        self.name = ""
        self.symbols: dict[str, int] = {}
        self.mesh: dict[str, int] = {}
        self.parameters: dict[str, Parameter] = {}
        self.buffers: dict[str, Buffer] = {}
        self.layers: list[str] = []
        self.stages: tuple[int, ...] = ()
        self.eos: int | None = None
        self.notes: list[str] = []
        self.graphs: dict[tuple[str, str], _GraphText] = {}
        self.current: _GraphText | None = None

    def line(self, line: str) -> None:
        text, where = _split_where(line.lstrip())
        if match := _GRAPH.fullmatch(text):
            self.current = self.graphs[match[1], match[2]] = _GraphText()
        elif self.current is not None:
            self._graph_line(self.current, text, where)
        else:
            self._header_line(text, where)

    def _graph_line(self, graph: _GraphText, text: str, where: str) -> None:
        if text.startswith("return "):
            graph.returns(text.removeprefix("return "))
        elif match := _PLACEHOLDER.fullmatch(text):
            graph.placeholder(match, where)
        elif match := _STATEMENT.fullmatch(text):
            graph.statement(match, where)
        else:
            raise ParseError("cannot read this")

    def _header_line(self, text: str, where: str) -> None:
        kind, _, rest = text.partition(" ")
        if kind == "program":
            self.name = rest
        elif kind == "symbols":
            self.symbols = _sizes(rest)
        elif kind == "mesh":
            self.mesh = _sizes(rest)
        elif match := _PARAMETER.fullmatch(text):
            self._parameter(match, where)
        elif match := _BUFFER.fullmatch(text):
            arguments = tuple(_keywords(match[3]).items())
            self.buffers[match[1]] = Buffer(match[1], TensorType.parse(match[2]), arguments)
        elif match := _LAYERS.fullmatch(text):
            self.layers += [match[2]] * int(match[1])
        elif kind == "eos":
            self.eos = int(rest)
        elif kind == "stages":
            self.stages = tuple(map(int, rest.split()))
        elif kind == "note":
            self.notes.append(ast.literal_eval(rest))
        else:
            raise ParseError("cannot read this")

    def _parameter(self, match: re.Match[str], where: str) -> None:
        word, name, kind, value = match.groups()
        shape = TensorType.parse(kind)
        if value.startswith("pack("):
            found = _PIECE.findall(value[len("pack(") : -1])
            pieces = tuple(
                Piece(piece, int(rows), _init(init), int(copies or 1))
                for piece, rows, init, copies in found
            )
        else:
            pieces = (Piece(name, int(shape.shape[0]), _init(value)),)
        self.parameters[name] = Parameter(name, shape, pieces, where, word == "parameter")

    def program(self) -> Program:
        regions: dict[str, Region] = {}
        for (name, direction), graph in self.graphs.items():
            if graph.module is None:
                raise ParseError(f"{name}.{direction} has no return")
            if direction == "forward":
                regions[name] = Region(name, graph.module, saved=tuple(graph.saved))
            else:
                old = regions[name]
                regions[name] = Region(name, old.forward, graph.module, old.saved)
        return Program(
            name=self.name,
            symbols=self.symbols,
            parameters=self.parameters,
            buffers=self.buffers,
            regions=regions,
            layers=tuple(self.layers),
            notes=tuple(self.notes),
            mesh=self.mesh,
            stages=self.stages,
            eos=self.eos,
        )
