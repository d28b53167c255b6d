"""differentiate: builds an explicit backward graph for each region from the ops' vjp rules.

Every forward value that a rule reads becomes a `saved` placeholder of the backward graph, as under
the policy `none`. The pass `checkpoint` then chooses which of them are saved.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import fx

from llamac.ir.graph import (
    Builder,
    attributes,
    copy_graph,
    finish,
    is_differentiable,
    op_of,
    operands,
    ops_in,
    output_of,
    placeholders,
    rename,
    results,
    sort_placeholders,
    type_of,
)
from llamac.ir.op import Op
from llamac.ir.program import Program, Region
from llamac.ops.elementwise import add
from llamac.ops.gradient import GradientBuilder

INFERENCE = ("logits", "evaluate")  # regions without a backward pass


@dataclass(frozen=True)
class Differentiate:
    """Pass that adds a backward graph to each region between the first trained weight and the loss.

    Without frozen weights, these are all regions but `logits` and `evaluate`. If `augment` changes
    the head, its original forward graph becomes the region `evaluate`.
    """

    name: str = "differentiate"

    def apply(self, program: Program) -> Program:
        for region in list(program.regions.values()):
            if region.name in INFERENCE or not program.needs_backward(region):
                continue
            augmented = augment(region, program.frozen)
            program = program.with_region(differentiate(augmented, program.frozen))
            if augmented is not region:  # evaluation keeps the plain form
                program = program.with_region(Region("evaluate", region.forward))
        return program


def augment(region: Region, frozen: Collection[str] = ()) -> Region:
    """Return the region with ops replaced by forms that compute gradients in the forward pass.

    Such a form has further results: the gradients of its operands per unit of the op's cotangent.
    If no op has one, `region` itself is returned.

    frozen: names of parameters that need no gradient.
    """
    if not any(_augmented(node, frozen) for node in ops_in(region.forward.graph)):
        return region
    graph = copy_graph(region.forward)
    build = Builder(graph)
    for node in list(ops_in(graph)):
        augmented = _augmented(node, frozen)
        if augmented is None:
            continue
        build.where = node.meta["where"]
        floating = _floating(node)[: len(augmented.results) - 1]
        extra = [f"d_{v.name}_per_{augmented.results[1].rpartition('_per_')[2]}" for v in floating]
        with graph.inserting_before(node):
            value, *_ = build.op(
                augmented, *operands(node), name=("augmented", *extra), **attributes(node)
            )
        name = node.name
        node.replace_all_uses_with(value)
        graph.erase_node(node)
        rename(value, name)
    # Not `finish`: the gradients it found have no reader until the backward graph is written.
    return replace(region, forward=fx.GraphModule(region.forward, graph))


def _augmented(node: fx.Node, frozen: Collection[str]) -> Op | None:
    """Return the op's form that also computes every required gradient, or None."""
    forms = op_of(node).augmented
    floating = enumerate(_floating(node), 1)
    required = [n for n, value in floating if value.meta.get("param") not in frozen]
    needed = max(required, default=1)
    return forms[needed - 1] if needed <= len(forms) else None


def _floating(node: fx.Node) -> list[fx.Node]:
    return [value for value in node.all_input_nodes if type_of(value).dtype != "i64"]


def differentiate(region: Region, frozen: Collection[str] = ()) -> Region:
    """Return the region with a backward graph.

    Its saved set is every input and computed value that the graph reads.

    frozen: names of parameters that get no gradient. Values that only such gradients would read are
    neither computed nor saved.
    """
    forward = copy_graph(region.forward)
    tape = _Tape(forward)
    for node in reversed(list(ops_in(forward))):
        tape.visit(node)
    backward = tape.close(frozen)
    saved = tuple(node.name for node in placeholders(backward.graph, "saved"))
    return replace(region, forward=finish(forward, live_out=saved), backward=backward, saved=saved)


class _Tape:
    """Accumulates cotangents by forward value while the backward graph is built."""

    def __init__(self, forward: fx.Graph) -> None:
        self.forward = forward
        self.build = GradientBuilder(self._primal, self._gradient_name)
        self.primals: dict[fx.Node, fx.Node] = {}
        self.cotangents: dict[fx.Node, list[fx.Node]] = {}
        self.reader = forward.output_node()
        out = output_of(forward)
        self.seed = self.build.placeholder(f"d_{out.name}", type_of(out), "cotangent")
        self.cotangents[out] = [self.seed]

    def visit(self, node: fx.Node) -> None:
        rule = op_of(node).vjp
        d_results = [value and self._total(value) for value in results(node)]
        if not any(d_results):
            return
        assert rule is not None, f"{op_of(node).name} has no vjp rule"
        self.reader = node
        self.build.where = node.meta["where"]
        for operand, cotangent in zip(
            operands(node), rule(self.build, node, *d_results), strict=True
        ):
            if cotangent is not None and isinstance(operand, fx.Node):
                self.cotangents.setdefault(operand, []).append(cotangent)

    def close(self, frozen: Collection[str]) -> fx.GraphModule:
        gradients = {}
        for node in placeholders(self.forward, "input", "param"):
            if is_differentiable(node) and node.meta.get("param") not in frozen:
                name = node.meta["param"] if node.meta["role"] == "param" else node.name
                gradients[name] = self._total(node)
        self.build.graph.output(gradients)
        sort_placeholders(self.build.graph, self.forward)
        # Some placeholders are read only by gradients that are not returned.
        return finish(self.build.graph, unused=("saved", "param", "constant"))

    def _total(self, value: fx.Node) -> fx.Node | None:
        """Return the sum of the cotangents from all readers of a forward value, or None."""
        parts = self.cotangents.get(value, [])
        if len(parts) < 2:
            return parts[0] if parts else None
        total = parts[0]
        for part in parts[1:]:
            last = part is parts[-1]
            name = f"d_{value.name}" if last else f"d_{value.name}_so_far"
            total = self.build.op(add, total, part, name=name)
        self.cotangents[value] = [total]
        return total

    def _gradient_name(self, value: fx.Node) -> str:
        readers = [user for user in value.users if user.op != "output"]
        several = len(readers) > 1 and value.meta.get("role") != "param"
        return f"d_{value.name}_from_{op_of(self.reader).name}" if several else f"d_{value.name}"

    def _primal(self, value: fx.Node) -> fx.Node:
        """Return the backward graph's placeholder for a forward value."""
        if value not in self.primals:
            role = value.meta.get("role", "saved")
            with self.build.graph.inserting_after(self.seed):
                self.primals[value] = self.build.placeholder(
                    value.name,
                    type_of(value),
                    role if role in ("param", "constant") else "saved",
                    param=value.meta.get("param", ""),
                    where=value.meta["where"],
                )
        return self.primals[value]
