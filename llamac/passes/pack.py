"""pack: merges linears that read the same value: wq, wk, wv → wqkv and w1, w3 → w13.

One large GEMM uses a GPU (or a CPU's cores) better than three small ones, and its backward sums the
three input gradients inside the matmul. Checkpoints keep the canonical names: the parameter table
records the rows of each canonical weight in the packed one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import fx

from llamac.ir.graph import Builder, is_op, operands, ops_in, placeholders, rename, rewrite, type_of
from llamac.ir.program import Parameter, Program, Region
from llamac.ir.types import TensorType
from llamac.ops.linear import linear
from llamac.ops.views import split

PACKS = {("wq", "wk", "wv"): "wqkv", ("w1", "w3"): "w13"}
OUTPUTS = {"wqkv": "qkv", "w13": "gate_up"}


@dataclass(frozen=True)
class Pack:
    """Pass that merges linears with a common input into one matmul."""

    name: str = "pack"

    def apply(self, program: Program) -> Program:
        for region in program.regions.values():
            for group in _groups(region.forward.graph):
                program = _pack(program, program.regions[region.name], group)
        return program


def _groups(graph: fx.Graph) -> Iterator[tuple[str, ...]]:
    """Yield the names of each group of weights to pack, in order of use."""
    readers: dict[object, list[str]] = {}
    for node in ops_in(graph):
        if is_op(node, linear):
            readers.setdefault(operands(node)[0], []).append(operands(node)[1].name)
    for names in readers.values():  # adapters may read the value as well
        yield from (group for group in PACKS if set(group) <= set(names))


def _pack(program: Program, region: Region, group: tuple[str, ...]) -> Program:
    packed_name = PACKS[group]
    tables = dict(program.parameters)

    def change(graph: fx.Graph) -> None:
        by_name = {node.name: node for node in placeholders(graph, "param")}
        has_bias = f"{group[0]}_bias" in by_name
        packed = [_stack(graph, tables, [by_name[name] for name in group], packed_name)]
        if has_bias:
            biases = [by_name[f"{name}_bias"] for name in group]
            packed.append(_stack(graph, tables, biases, f"{packed_name}_bias"))
        _join_linears(graph, group, packed)
        for name in group:
            graph.erase_node(by_name[name])
            if has_bias:
                graph.erase_node(by_name[f"{name}_bias"])

    forward = rewrite(region.forward, change)
    return replace(program, parameters=tables).with_region(replace(region, forward=forward))


def _stack(
    graph: fx.Graph, tables: dict[str, Parameter], parts: list[fx.Node], short_name: str
) -> fx.Node:
    """Replace several weights by one packed parameter and return its placeholder."""
    entries = [tables[part.meta["param"]] for part in parts]
    name = f"{entries[0].name.rpartition('.')[0]}.{short_name}"
    rows = sum(piece.rows for entry in entries for piece in entry.pieces)
    kind = TensorType(entries[0].type.dtype, (rows, *entries[0].type.shape[1:]))
    pieces = tuple(piece for entry in entries for piece in entry.pieces)
    table = {**tables}
    tables.clear()
    for key, entry in table.items():  # the packed entry takes the position of its first piece
        if key == entries[0].name:
            tables[name] = Parameter(name, kind, pieces, entry.where, entry.trainable)
        elif entry not in entries:
            tables[key] = entry
    with graph.inserting_before(parts[0]):
        return Builder(graph).placeholder(
            short_name, kind, "param", param=name, where=parts[0].meta["where"]
        )


def _join_linears(graph: fx.Graph, group: tuple[str, ...], packed: list[fx.Node]) -> None:
    linears = [
        node for node in ops_in(graph) if is_op(node, linear) and operands(node)[1].name in group
    ]
    build = Builder(graph)
    build.where = linears[0].meta["where"]
    with graph.inserting_before(linears[0]):
        joined = build.op(linear, operands(linears[0])[0], *packed, name=OUTPUTS[packed[0].name])
        sizes = tuple(int(type_of(node).shape[-1]) for node in linears)
        parts = build.op(
            split, joined, sizes=sizes, dim=-1, name=tuple(f"{n.name}_part" for n in linears)
        )
    for old, new in zip(linears, parts, strict=True):
        name = old.name
        old.replace_all_uses_with(new)
        graph.erase_node(old)
        rename(new, name)
