"""Builder that vjp rules use to add ops to a backward graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from llamac.ir.graph import Builder, op_of, results


class GradientBuilder(Builder):
    """Builder that vjp rules use to add ops to a backward graph.

    primal_of: returns the backward graph's node for a forward value.
    name_of: returns the name of a forward value's gradient.
    """

    def __init__(
        self, primal_of: Callable[[fx.Node], fx.Node], name_of: Callable[[fx.Node], str]
    ) -> None:
        super().__init__()
        self._primal_of, self._name_of = primal_of, name_of

    def primal(self, value: Any) -> fx.Node:
        """Return the backward graph's placeholder for a forward value; the first call adds it."""
        return self._primal_of(value)

    def primal_result(self, node: fx.Node, index: int) -> fx.Node:
        """Return the backward graph's node for result `index` of a multi-result forward op.

        The forward graph gets a getitem node for the result if it has none.
        """
        value = results(node)[index]
        if value is None:
            forward = Builder(node.graph)
            earlier = [one for one in results(node)[:index] if one is not None]
            with node.graph.inserting_after([node, *earlier][-1]):  # in the order they are printed
                value = forward.result(node, index, _name(node, index))
        return self._primal_of(value)

    def name(self, value: Any) -> str:
        """Return the name for the gradient of a forward value, such as `d_x`.

        If several ops read the value, it names the op whose vjp rule runs: `d_x_from_linear`.
        """
        return self._name_of(value)


def _name(node: fx.Node, index: int) -> str:
    """Return a gradient's name, distinct for each result of an op."""
    names = op_of(node).results
    for result, usual in zip(results(node), names, strict=True):
        if result is not None and result.name != usual:
            return f"{result.name}_{names[index]}"
    return names[index]
