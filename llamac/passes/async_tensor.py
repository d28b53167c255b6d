"""async_tensor: merges a matmul with the all-gather before it or the reduce-scatter after it.

With symmetric memory, the merged op pipelines the transfer between tensor-parallel ranks with the
matmul (see `runtime/distributed/async_tensor.py`). Each collective is merged with one matmul; other
readers of a gathered value still read all of it.
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
from llamac.ops.async_tensor import POSITIONS, WITH_GATHER, WITH_SCATTER
from llamac.ops.collectives import all_gather, reduce_scatter

AXIS = "tp"


@dataclass(frozen=True)
class AsyncTensor:
    """Pass that merges tensor-parallel all-gathers and reduce-scatters with neighbouring matmuls.

    A merged op overlaps transfer and matmul on GPUs that access each other's memory.

    enabled: False leaves the Program unchanged.
    """

    enabled: bool
    name: str = "async_tensor"

    def apply(self, program: Program) -> Program:
        for region in program.regions.values() if self.enabled else ():
            forward = _merge_collectives(region.forward, region.saved)
            backward = region.backward and _merge_collectives(region.backward, ())
            program = program.with_region(replace(region, forward=forward, backward=backward))
        return program


def _merge_collectives(module: fx.GraphModule, saved: tuple[str, ...]) -> fx.GraphModule:
    graph = copy_graph(module)
    for node in list(ops_in(graph)):
        options = attributes(node)
        if options.get("axis") != AXIS or options.get("dim") != POSITIONS:
            continue
        if is_op(node, all_gather):
            _merge_gather(graph, node)
        elif is_op(node, reduce_scatter):
            _merge_scatter(graph, node)
    return finish(graph, live_out=saved)


def _merge_gather(graph: fx.Graph, gather: fx.Node) -> None:
    """Fuse an all-gather with the first matmul that reads it."""
    matmul = next((user for user in gather.users if _is_matmul_of(user, gather)), None)
    if matmul is None:
        return
    (x,), weight = operands(gather), operands(matmul)[1]
    names = gather.name, matmul.name
    build = Builder(graph)
    with graph.inserting_before(gather):
        build.where = matmul.meta["where"]
        op, options = WITH_GATHER[op_of(matmul)], attributes(gather)
        merged = build.op(op, x, weight, axis=options["axis"], size=options["size"])
    for old, new, name in zip((gather, matmul), merged, names, strict=True):
        old.replace_all_uses_with(new)
        rename(new, name)
    graph.erase_node(matmul)
    graph.erase_node(gather)


def _is_matmul_of(user: fx.Node, gather: fx.Node) -> bool:
    """Return whether `user` is a matmul of the gathered value with a weight."""
    options = operands(user) if is_op(user, *WITH_GATHER) else ()
    return len(options) == 2 and options[0] is gather


def _merge_scatter(graph: fx.Graph, scatter: fx.Node) -> None:
    (matmul,) = operands(scatter)
    if not is_op(matmul, *WITH_SCATTER) or len(matmul.users) > 1 or len(operands(matmul)) > 2:
        return
    build = Builder(graph)
    with graph.inserting_before(scatter):
        build.where = matmul.meta["where"]
        options = attributes(scatter)
        op = WITH_SCATTER[op_of(matmul)]
        merged = build.op(op, *operands(matmul), axis=options["axis"], size=options["size"])
    name = scatter.name
    scatter.replace_all_uses_with(merged)
    graph.erase_node(scatter)
    graph.erase_node(matmul)
    rename(merged, name)
