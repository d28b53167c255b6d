"""pack: merges linears that read the same value: wq, wk, wv → wqkv and w1, w3 → w13.

One large GEMM uses a GPU (or a CPU's cores) better than three small ones, and its backward sums the
three input gradients inside the matmul. Checkpoints keep the canonical names: the parameter table
records the rows of each canonical weight in the packed one.

The A matrices of LoRA adapters on such linears are merged in the same way (wqkv_lora_a), even if
only some of the linears have one. The B matrices read different values and are not merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import fx

from llamac.ir.graph import (
    Builder,
    attributes,
    is_op,
    operands,
    ops_in,
    placeholders,
    rename,
    rewrite,
    type_of,
)
from llamac.ir.program import Parameter, Program, Region
from llamac.ir.types import TensorType
from llamac.ops.elementwise import scale_by
from llamac.ops.linear import linear
from llamac.ops.views import split

PACKS = {("wq", "wk", "wv"): "wqkv", ("w1", "w3"): "w13"}
"""Name of the packed weight, by the names of the weights that it merges."""

OUTPUTS = {"wqkv": "qkv", "w13": "gate_up"}
"""Name of a packed linear's result, by the name of its weight."""


@dataclass(frozen=True)
class Pack:
    """Pass that merges linears with a common input: wq, wk, wv into wqkv and w1, w3 into w13.

    The A matrices of their LoRA adapters are merged too.
    """

    name: str = "pack"

    def apply(self, program: Program) -> Program:
        for region in program.regions.values():
            for group, packed in _groups(region.forward.graph):
                program = _pack(program, program.regions[region.name], group, packed)
        return program


def _groups(graph: fx.Graph) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (names of the weights to pack, name of the packed one), in order of use."""
    readers: dict[object, list[str]] = {}
    for node in ops_in(graph):
        if is_op(node, linear):
            readers.setdefault(operands(node)[0], []).append(operands(node)[1].name)
    for names in readers.values():
        for group, packed in PACKS.items():
            if set(group) <= set(names):
                yield group, packed
            adapters = tuple(f"{name}_lora_a" for name in group if f"{name}_lora_a" in names)
            if len(adapters) > 1:
                yield adapters, f"{packed}_lora_a"


def _pack(program: Program, region: Region, group: tuple[str, ...], packed_name: str) -> Program:
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
    """Replace the linears by one and a split. Adapters' results are scaled before the split."""
    linears = [
        node for node in ops_in(graph) if is_op(node, linear) and operands(node)[1].name in group
    ]
    base, _, adapter = packed[0].name.partition("_lora_")
    name = OUTPUTS[base]
    build = Builder(graph)
    build.where = linears[0].meta["where"]
    with graph.inserting_before(linears[0]):
        joined = build.op(
            linear,
            operands(linears[0])[0],
            *packed,
            name=f"{name}_low_rank" if adapter else name,
        )
        ends = linears
        if adapter:
            ends = [reader for node in linears for reader in node.users]
            joined = build.op(scale_by, joined, name=f"{name}_scaled", **attributes(ends[0]))
        sizes = tuple(int(type_of(node).shape[-1]) for node in ends)
        parts = build.op(
            split, joined, sizes=sizes, dim=-1, name=tuple(f"{n.name}_part" for n in ends)
        )
    for old, new in zip(ends, parts, strict=True):
        name = old.name
        old.replace_all_uses_with(new)
        graph.erase_node(old)
        rename(new, name)
    graph.eliminate_dead_code()
