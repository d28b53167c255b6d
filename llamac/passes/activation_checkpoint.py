"""checkpoint: decides once, as data, which forward values are kept for the backward pass.

The saved set is written into the region; whatever else the backward graph reads is computed again,
by copies of the forward ops placed just before their first reader.

    none       keep every value the backward reads
    selective  keep what costs a matmul or an attention to have again (LLaMA's rule, section 2.4)
    full       keep only the region's inputs

The fourth policy, `budget`, is that of `llamac.passes.budget`, which chooses sets and their layers.

A view is never kept: keeping it would keep its operand's memory, so the operand is kept instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from llamac.ir.graph import (
    Builder,
    copy_graph,
    finish,
    is_op,
    op_of,
    placeholders,
    producer,
    sort_placeholders,
    type_of,
)
from llamac.ir.program import Program, Region
from llamac.ops.collectives import all_gather

POLICIES = {
    "none": ("save", "recompute"),  # the costs of ops whose results are kept
    "selective": ("save",),
    "full": (),
}

Keep = Callable[[fx.Node], bool]
"""Is this forward value kept? Asked of values that are no views."""


@dataclass(frozen=True)
class ActivationCheckpoint:
    """Keep the forward values that `policy` names; recompute the others in the backward pass."""

    policy: str
    name: str = "checkpoint"

    def apply(self, program: Program) -> Program:
        for region in program.regions.values():
            if region.backward is not None:
                # The loss is the last thing computed: to recompute it would be to compute it twice.
                policy = "none" if region.name == "head" and self.policy == "full" else self.policy
                program = program.with_region(checkpoint(region, by_cost(policy)))
        return program


def by_cost(policy: str) -> Keep:
    """Return the rule of a policy: which forward values are kept, by the cost of their ops.

    `regather` is `none` except that what tensor ranks gathered is gathered again: Megatron's way
    (Korthikanti et al. 2022, section 4.2.2), for the planner.
    """
    if policy == "regather":
        return lambda value: not is_op(producer(value)[0], all_gather)
    costs = POLICIES[policy]
    return lambda value: op_of(producer(value)[0]).cost in costs


def checkpoint(region: Region, keep: Keep) -> Region:
    """Give a region its saved set, and a backward graph that makes do with it."""
    assert region.backward is not None
    rebuild = _RecomputeBackward(region.forward.graph, keep)
    for node in region.backward.graph.nodes:
        rebuild.copy(node)
    sort_placeholders(rebuild.graph, region.forward.graph)
    order = {node.name: index for index, node in enumerate(region.forward.graph.nodes)}
    saved = sorted((n.name for n in placeholders(rebuild.graph, "saved")), key=order.__getitem__)
    forward = finish(copy_graph(region.forward), keep=saved)
    return Region(region.name, forward, finish(rebuild.graph), tuple(saved))


class _RecomputeBackward:
    """Copy a backward graph node by node, recomputing the forward values that are not kept.

    A value is computed again when the first op that reads it is copied.
    """

    def __init__(self, forward: fx.Graph, keep: Keep) -> None:
        self.forward = {node.name: node for node in forward.nodes}
        self.keep = keep
        self.graph = fx.Graph()
        self.build = Builder(self.graph)
        self.copies: dict[fx.Node, fx.Node] = {}  # of backward nodes
        self.values: dict[fx.Node, fx.Node] = {}  # of forward nodes

    def copy(self, node: fx.Node) -> None:
        """Copy one node of the old backward graph."""
        if node.op == "placeholder" and node.meta["role"] != "cotangent":
            return  # made when first read
        self.copies[node] = self.graph.node_copy(node, self._operand)

    def _operand(self, node: fx.Node) -> fx.Node:
        if node not in self.copies:
            self.copies[node] = self._value(self.forward[node.name])
        return self.copies[node]

    def _value(self, value: fx.Node) -> fx.Node:
        """Return a forward value, in the new backward graph."""
        if value not in self.values:
            if value.op == "placeholder" or self._kept(value):
                self.values[value] = self._placeholder(value)
            else:
                self.values[value] = self.graph.node_copy(value, self._value)
        return self.values[value]

    def _kept(self, value: fx.Node) -> bool:
        if isinstance(value.meta["type"], tuple):
            return False  # an op with several results: each is kept on its own
        source, _ = producer(value)
        return op_of(source).cost != "view" and self.keep(value)

    def _placeholder(self, value: fx.Node) -> fx.Node:
        role = value.meta.get("role", "saved")
        if role not in ("param", "constant"):
            role = "saved"
        anchor = placeholders(self.graph, "cotangent")[0]
        with self.graph.inserting_after(anchor):
            return self.build.placeholder(
                value.name,
                type_of(value),
                role,
                param=value.meta.get("param", ""),
                where=value.meta["where"],
            )
