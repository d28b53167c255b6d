"""async_tensor: merges all-gathers with the next matmul, and matmuls with their reduce-scatter.

With symmetric memory, the transfer between tensor-parallel ranks is then pipelined with the matmul
(see `runtime/distributed/async_tensor.py`). Each collective is merged with one matmul; other
readers of a gathered value still read it whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from llamac.ir.graph import (
    Builder,
    attributes,
    copy_graph,
    finish,
    is_op,
    op_of,
    operands,
    ops_in,
    rename,
)
from llamac.ir.program import Program
from llamac.ops.async_tensor import GATHERING, POSITIONS, SCATTERING
from llamac.ops.collectives import all_gather, reduce_scatter

AXIS = "tp"


@dataclass(frozen=True)
class AsyncTensor:
    """Pass that merges collectives with matmuls.

    enabled: whether it does anything; meant for GPUs with direct access to each other's memory.
    """

    enabled: bool
    name: str = "async_tensor"

    def apply(self, program: Program) -> Program:
        for region in program.regions.values() if self.enabled else ():
            forward = _joined(region.forward, region.saved)
            backward = region.backward and _joined(region.backward, ())
            program = program.with_region(replace(region, forward=forward, backward=backward))
        return program


def _joined(module: fx.GraphModule, saved: tuple[str, ...]) -> fx.GraphModule:
    graph = copy_graph(module)
    for node in list(ops_in(graph)):
        given = attributes(node)
        if given.get("axis") != AXIS or given.get("dim") != POSITIONS:
            continue
        if is_op(node, all_gather):
            _join_reader(graph, node)
        elif is_op(node, reduce_scatter):
            _join_sum(graph, node)
    return finish(graph, keep=saved)


def _join_reader(graph: fx.Graph, gather: fx.Node) -> None:
    """Fuse an all-gather with the first matmul that reads it."""
    matmul = next((user for user in gather.users if _reads(user, gather)), None)
    if matmul is None:
        return
    (x,), weight = operands(gather), operands(matmul)[1]
    names = gather.name, matmul.name
    build = Builder(graph)
    with graph.inserting_before(gather):
        build.where = matmul.meta["where"]
        op, given = GATHERING[op_of(matmul)], attributes(gather)
        found = build.op(op, x, weight, axis=given["axis"], size=given["size"])
    for old, new, name in zip((gather, matmul), found, names, strict=True):
        old.replace_all_uses_with(new)
        rename(new, name)
    graph.erase_node(matmul)
    graph.erase_node(gather)


def _reads(user: fx.Node, gather: fx.Node) -> bool:
    """Return whether `user` is a matmul of the gathered value with a weight."""
    given = operands(user) if is_op(user, *GATHERING) else ()
    return len(given) == 2 and given[0] is gather


def _join_sum(graph: fx.Graph, scatter: fx.Node) -> None:
    (matmul,) = operands(scatter)
    if not is_op(matmul, *SCATTERING) or len(matmul.users) > 1 or len(operands(matmul)) > 2:
        return
    build = Builder(graph)
    with graph.inserting_before(scatter):
        build.where = matmul.meta["where"]
        given = attributes(scatter)
        op = SCATTERING[op_of(matmul)]
        found = build.op(op, *operands(matmul), axis=given["axis"], size=given["size"])
    name = scatter.name
    scatter.replace_all_uses_with(found)
    graph.erase_node(scatter)
    graph.erase_node(matmul)
    rename(found, name)
