"""checkpoint: chooses the forward values to save for the backward pass (activation checkpointing).

The saved set is recorded in the region. Other values that the backward graph reads are recomputed
by copies of the forward ops, placed just before their first reader. Policies:

    none       save every value that the backward pass reads
    selective  save values whose recomputation takes a matmul or attention (LLaMA, section 2.4)
    full       save only the region's inputs
    budget     solved by `llamac.passes.budget`, which chooses the saved set of each layer

Instead of a view, whose memory belongs to its operand, the operand is saved.
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
    "none": ("save", "recompute"),
    "selective": ("save",),
    "full": (),
}
"""Costs (`Op.cost`) of the ops whose results each policy saves."""

SavePredicate = Callable[[fx.Node], bool]
"""Function (node of a forward value, never a view) → whether to save it for the backward pass."""


@dataclass(frozen=True)
class ActivationCheckpoint:
    """Pass that applies a checkpointing policy: `none`, `selective` or `full`.

    With `full`, the head still saves all that its backward pass reads: that pass follows the
    forward pass immediately, so recomputation would cost time and free nothing.
    """

    policy: str
    name: str = "checkpoint"

    def apply(self, program: Program) -> Program:
        for region in program.regions.values():
            if region.backward is not None:
                # The loss comes right before its backward pass: to recompute it doubles it.
                policy = "none" if region.name == "head" and self.policy == "full" else self.policy
                program = program.with_region(checkpoint(region, policy_predicate(policy)))
        return program


def policy_predicate(policy: str) -> SavePredicate:
    """Return a policy's predicate, which depends only on the op that computes a value.

    policy: key of `POLICIES`, or `regather`, which only the planner uses. It saves all values
    except the results of all-gathers, as Megatron does for those of sequence parallelism
    (Korthikanti et al. 2022, section 4.2.2).
    """
    if policy == "regather":
        return lambda value: not is_op(producer(value)[0], all_gather)
    costs = POLICIES[policy]
    return lambda value: op_of(producer(value)[0]).cost in costs


def checkpoint(region: Region, should_save: SavePredicate) -> Region:
    """Return the region with a saved set, and a backward graph that recomputes the other values.

    region: a region after `differentiate`, with a backward graph that reads every value it needs.
    should_save: decides on the computed values that are needed; needed inputs are always saved.
    """
    assert region.backward is not None
    rebuild = _RecomputeBackward(region.forward.graph, should_save)
    for node in region.backward.graph.nodes:
        rebuild.copy(node)
    sort_placeholders(rebuild.graph, region.forward.graph)
    order = {node.name: index for index, node in enumerate(region.forward.graph.nodes)}
    saved = sorted((n.name for n in placeholders(rebuild.graph, "saved")), key=order.__getitem__)
    forward = finish(copy_graph(region.forward), live_out=saved)
    return Region(region.name, forward, finish(rebuild.graph), tuple(saved))


class _RecomputeBackward:
    """Copies a backward graph, recomputing forward values that are not saved.

    The ops that recompute a value are inserted before the first op that reads it.
    """

    def __init__(self, forward: fx.Graph, should_save: SavePredicate) -> None:
        self.forward = {node.name: node for node in forward.nodes}
        self.should_save = should_save
        self.graph = fx.Graph()
        self.build = Builder(self.graph)
        self.copies: dict[fx.Node, fx.Node] = {}  # of backward nodes
        self.values: dict[fx.Node, fx.Node] = {}  # of forward nodes

    def copy(self, node: fx.Node) -> None:
        """Copy one node of the old backward graph, after recomputing its operands where needed."""
        if node.op == "placeholder" and node.meta["role"] != "cotangent":
            return  # created on first use
        self.copies[node] = self.graph.node_copy(node, self._operand)

    def _operand(self, node: fx.Node) -> fx.Node:
        if node not in self.copies:
            self.copies[node] = self._value(self.forward[node.name])
        return self.copies[node]

    def _value(self, value: fx.Node) -> fx.Node:
        """Return the new backward graph's node for a forward value: saved, or recomputed."""
        if value not in self.values:
            if value.op == "placeholder" or self._is_saved(value):
                self.values[value] = self._placeholder(value)
            else:
                self.values[value] = self.graph.node_copy(value, self._value)
        return self.values[value]

    def _is_saved(self, value: fx.Node) -> bool:
        if isinstance(value.meta["type"], tuple):
            return False  # an op with several results: each is saved on its own
        source, _ = producer(value)
        return op_of(source).cost != "view" and self.should_save(value)

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
