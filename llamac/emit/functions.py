"""Generate readable Python source of a region's forward and backward functions.

Each statement is on a line of its own, with the result's shape in a comment. Comments also mark the
attention and feed-forward halves of a block and the values recomputed in the backward pass.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from torch import fx

from llamac.emit.halves import backward_halves, forward_halves, half_starts
from llamac.emit.python_source import WIDTH, python_literal
from llamac.emit.sizes import Sizes
from llamac.ir.graph import (
    op_of,
    ops_in,
    output_of,
    placeholders,
    recomputed_ops,
    results,
    type_of,
)
from llamac.ir.op import Op
from llamac.ir.program import Region
from llamac.ir.types import TensorType

RUNTIME = "llamac.runtime."
PLAIN = Sizes()
"""Sizes without named constants: all numbers are written as literals."""

SEQUENCES_PURPOSE = "Return the log-probability of each sequence's targets."
"""Docstring of the head's function if it compares sequences, for dpo."""

PURPOSE = {
    "embed": "Map token ids to the residual stream.",
    "head": "Return the loss, summed over all targets.",
    "evaluate": "Return the loss of `head_forward` without its gradients, for validation.",
    "logits": "Return the logits of the next tokens, for generation.",
    "prefill": "Run one layer over whole prompts, filling the key-value cache.",
    "visible": "Return the mask of the cached positions that the queries attend to.",
    "decode": "Run one layer over new tokens, which attend to the key-value cache.",
}
"""Docstring of each region's forward function, except blocks."""

LAYER = "Run one layer on the residual stream."
"""Docstring of a block's forward function."""


@dataclass(frozen=True)
class Signature:
    """Names of the arguments and results of a region's forward and backward functions.

        forward(*inputs) -> output, saved
        backward(cotangent, *saved_inputs, *saved) -> gradients

    saved: computed values of the saved set.
    saved_inputs: inputs of the forward function that the backward function reads.
    cotangent: gradient of `output`. gradients: one name per input, None if it has no gradient.
    """

    inputs: tuple[str, ...]
    output: str
    saved: tuple[str, ...]
    cotangent: str
    saved_inputs: tuple[str, ...]
    gradients: tuple[str | None, ...]


def signature(region: Region) -> Signature:
    """Return the names of the arguments and results of a region's functions.

    Without a backward graph, all fields but `inputs` and `output` are empty.
    """
    forward = region.forward.graph
    arguments = placeholders(forward, "input", "constant", "param")
    inputs = tuple(node.name for node in arguments)
    output = output_of(forward).name
    if region.backward is None:
        return Signature(inputs, output, (), "", (), ())
    backward = region.backward.graph
    returned = output_of(backward)
    return Signature(
        inputs=inputs,
        output=output,
        saved=tuple(name for name in region.saved if name not in inputs),
        cotangent=placeholders(backward, "cotangent")[0].name,
        saved_inputs=tuple(
            name for name in inputs if name in {node.name for node in placeholders(backward)}
        ),
        gradients=tuple(
            returned[key].name if (key := _key(node)) in returned else None for node in arguments
        ),
    )


def forward_source(region: Region, sizes: Sizes = PLAIN) -> str:
    """Return the source of `<region>_forward`, with numbers named in `sizes` as constants."""
    return _joined(source_lines(region, "forward", sizes))


def backward_source(region: Region, sizes: Sizes = PLAIN) -> str:
    """Return the source of `<region>_backward`, with numbers named in `sizes` as constants."""
    return _joined(source_lines(region, "backward", sizes))


SourceLine = tuple[str, fx.Node | None]
"""A line of source and the graph node that it was generated from, if any."""


def source_lines(
    region: Region, direction: Literal["forward", "backward"], sizes: Sizes = PLAIN
) -> Iterator[SourceLine]:
    """Yield the lines of a region's forward or backward function, with the node of each or None.

    sizes: constants that are written in place of numbers.
    """
    return (_forward_lines if direction == "forward" else _backward_lines)(region, sizes)


def _joined(lines: Iterable[SourceLine]) -> str:
    return "\n".join(line for line, _ in lines)


def _forward_lines(region: Region, sizes: Sizes) -> Iterator[SourceLine]:
    sign = signature(region)
    graph = region.forward.graph
    value = sign.output
    if sign.saved:
        value = f"{sign.output}, ({', '.join(sign.saved)}{',' if len(sign.saved) == 1 else ''})"
    yield from _definition(f"{region.name}_forward", placeholders(graph), bool(sign.saved))
    yield f'    """{_purpose(region)}"""', None
    yield from _body(graph, forward_halves(region), frozenset(), sizes)
    yield from _with_node(graph.output_node(), wrap_statement("return ", value))


def _backward_lines(region: Region, sizes: Sizes) -> Iterator[SourceLine]:
    assert region.backward is not None
    sign = signature(region)
    graph = region.backward.graph
    value = ", ".join(name for name in sign.gradients if name is not None)
    arguments = {node.name: node for node in placeholders(graph)}
    order = [arguments[name] for name in (sign.cotangent, *sign.saved_inputs, *sign.saved)]
    yield from _definition(f"{region.name}_backward", order, "," in value)
    yield f'    """Return the gradients of `{region.name}_forward`."""', None
    yield from _body(graph, backward_halves(region), recomputed_ops(graph), sizes)
    yield from _with_node(graph.output_node(), wrap_statement("return ", value))


def functions_used(region: Region) -> Iterator[tuple[str, str]]:
    """Yield (module below `runtime`, name) of each runtime function that a region's code calls."""
    for module in filter(None, (region.forward, region.backward)):
        for node in ops_in(module.graph):
            if kernel := node.kwargs.get("kernel"):
                yield (
                    f"kernels.attention.attention_{kernel}",
                    op_of(node).name.removeprefix("context_"),
                )
            called = re.match(r"(\w+)\(", _expression(node, PLAIN))
            if called and called[1] not in ("attention", "attention_backward"):
                yield _runtime_module(op_of(node), called[1]), called[1]


def _runtime_module(op: Op, function: str) -> str:
    """Return the module below `runtime` that defines `function`.

    It is the module of the op's eager function or, if that is a wrapper, the module from which the
    op's file imports the function.
    """
    home = op.eager.__module__
    if not home.startswith(RUNTIME):
        imported = (value for value in vars(sys.modules[home]).values() if inspect.ismodule(value))
        names = {m.__name__ for m in imported if function in vars(m)}
        [home] = (name for name in names if name.startswith(RUNTIME))
    return home.removeprefix(RUNTIME)


def runtime_imports(
    regions: Iterable[Region], package: str, extra: Iterable[tuple[str, str]] = ()
) -> Iterator[str]:
    """Yield the statements that import the runtime functions which the regions' sources call.

    package: where the modules are, `runtime` or `llamac.runtime`.
    extra: further functions to import, as `functions_used` yields them.
    """
    used: dict[str, set[str]] = {}
    for module, function in chain(extra, *map(functions_used, regions)):
        used.setdefault(module, set()).add(function)
    for module, functions in sorted(used.items()):
        yield from wrap_statement(
            f"from {package}.{module} import ", ", ".join(sorted(functions)), indent=0
        )


def _key(node: fx.Node) -> str:
    return node.meta["param"] if node.meta["role"] == "param" else node.name


def _purpose(region: Region) -> str:
    if region.name == "head" and type_of(output_of(region.forward.graph)).shape:
        return SEQUENCES_PURPOSE
    return PURPOSE.get(region.name, LAYER)


def _with_node(node: fx.Node, lines: Iterable[str]) -> Iterator[SourceLine]:
    return ((line, node) for line in lines)


def _definition(name: str, arguments: Sequence[fx.Node], several: bool) -> Iterator[SourceLine]:
    """Yield the function's signature, one argument per line with its shape."""
    yield f"def {name}(", None
    for node in arguments:
        yield f"    {node.name}: Tensor,  # {shape(node.meta['type'])}", node
    yield ") -> tuple[Tensor, ...]:" if several else ") -> Tensor:", None


def _body(
    graph: fx.Graph,
    halves: dict[fx.Node, str],
    recomputed: frozenset[fx.Node],
    sizes: Sizes,
) -> Iterator[SourceLine]:
    headings = half_starts(halves)
    for number, node in enumerate(ops_in(graph)):
        if node in headings:
            yield from ([("", None)] if number else [])
            yield f"    # {headings[node]}", None
        yield from _with_node(node, _statement(node, recomputed, sizes))


def _statement(node: fx.Node, recomputed: frozenset[fx.Node], sizes: Sizes) -> Iterator[str]:
    values = results(node)
    names = ["_" if value is None else value.name for value in values]
    kinds = node.meta["type"]
    shapes = [shape(kind) for kind in ([kinds] if isinstance(kinds, TensorType) else kinds)]
    same_shape = len(shapes) > 1 and len(set(shapes)) == 1
    comment = "  # " + (f"{shapes[0]} each" if same_shape else ", ".join(shapes))
    if node in recomputed and op_of(node).cost != "view":
        comment += ", recomputed"
    left, call = f"{', '.join(names)} = ", _expression(node, sizes)
    if len(names) > 1 and 4 + len(left) + call.find("(") >= WIDTH:
        yield from ("    (", *(f"        {name}," for name in names))
        yield from wrap_statement(") = ", call, comment)
    else:
        yield from wrap_statement(left, call, comment)


def _expression(node: fx.Node, sizes: Sizes) -> str:
    op = op_of(node)
    attributes = {key: sizes.attribute(key, value) for key, value in node.kwargs.items()}
    operands = ["None" if operand is None else str(operand) for operand in node.args]
    if op.emit is not None:
        return op.emit(*operands, **{key: _Source(value) for key, value in attributes.items()})
    keywords = [f"{key}={python_literal(value)}" for key, value in attributes.items()]
    return f"{op.eager.__name__}({', '.join(operands + keywords)})"


class _Source:
    """Wrapper of an attribute for emit rules: formatting it yields its Python literal."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __format__(self, _spec: str) -> str:
        return python_literal(self.value)

    def __repr__(self) -> str:
        return python_literal(self.value)


def wrap_statement(left: str, right: str, comment: str = "", indent: int = 4) -> Iterator[str]:
    """Yield `left + right` on one line, or on several in ruff's format if the line is too long.

    left: the statement up to and including `= ` or `return `.
    right: a call, a tuple without parentheses, or an expression without commas.
    comment: comment of the statement, including `  # `. indent: spaces before the statement.
    """
    margin = " " * indent
    line = f"{margin}{left}{right}{comment}"
    if len(line) <= WIDTH:
        yield line
    else:
        yield from _split(left, right, comment, indent)


def _split(left: str, right: str, comment: str, indent: int) -> Iterator[str]:
    """Yield `left` and `right` on several lines; arguments as for `wrap_statement`."""
    margin = " " * indent
    opening = right.find("(") if right.endswith(")") and not right.startswith("(") else -1
    if "," in right[: max(opening, 0)]:  # the bracket belongs to a later element of a tuple
        opening = -1
    head, inside, tail = right[: opening + 1], right[opening + 1 : -1], right[-1]
    if opening < 0:
        head, inside, tail = "(", right, ")"
    yield f"{margin}{left}{head}"
    if (opening >= 0 or "," not in right) and len(inside) + indent + 4 <= WIDTH:
        yield f"{margin}    {inside}"
    else:
        for item in _elements(inside):
            bare = item[1:-1] if item.startswith("(") else item  # `_split` adds a tuple's brackets
            fits = len(item) + indent + 5 <= WIDTH or not item.endswith(")")
            yield from [f"{margin}    {item},"] if fits else _split("", bare, ",", indent + 4)
    yield f"{margin}{tail}{comment}"


def _elements(text: str) -> Iterator[str]:
    """Yield the parts of `text` between commas outside brackets."""
    depth, start = 0, 0
    for index, char in enumerate(text):
        depth += char in "([{"
        depth -= char in ")]}"
        if char == "," and depth == 0:
            yield text[start:index].strip()
            start = index + 1
    yield text[start:].strip()


def shape(kind: TensorType) -> str:
    """Return a type's shape as text for comments: `[B, S, 256]`, or `scalar`."""
    return f"[{', '.join(map(str, kind.shape))}]" if kind.shape else "scalar"
