"""The `Op` class: one operation with its rules for typing, execution, differentiation and cost.

Ops themselves are defined in `llamac.ops`, one file per family. An op's operands are positional
arguments (values, or None where optional) and its attributes are keyword arguments (plain Python
literals), as in the fx nodes that call it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llamac.ir.types import TensorType, Types

if TYPE_CHECKING:
    from torch import fx

OPS: dict[str, Op] = {}
"""All defined ops by name. Importing `llamac.ops` fills it."""

Cost = Literal["save", "recompute", "view"]
"""Cost class of an op, from which checkpointing chooses what to save for the backward pass.

save       saved by the selective policy: recomputing it takes a matmul, attention or transfer, or
           saving its operand takes as much memory
recompute  memory-bound: cheaper to recompute than to save
view       has no memory of its own: its operand is saved instead
"""


def _no_flops(*_operands: Any, **_attributes: Any) -> float:
    return 0


@dataclass(frozen=True, eq=False)
class Op:
    """An operation and its rules. Calling it runs the eager implementation.

    name: unique name, by which the IR's text and `OPS` refer to the op.
    infer(*operand types, **attributes) returns the type(s) of the result(s) or raises
    TypeRuleError. eager(*tensors, **attributes) computes the result(s), by functions of torch or
    `llamac.runtime`, so that the emitted trainer runs the same code that is verified.
    vjp(gradient builder, node, *cotangents of the results) returns one cotangent (or None) per
    operand; None for an op that is never differentiated.
    flops(*operand shapes, **attributes) counts a multiply-add as two; a shape is a tuple of ints.
    dims: dimensions of operands and results in the notation of `llamac.ir.layout`. An op without
        dims works over a mesh axis, and its `infer` returns the layouts of its results.
    emit(*operand expressions, **attributes) returns a Python expression; None stands for a call of
        `eager`, imported from its module.
    cost: cost class, which tells checkpointing whether to save the results.
    augmented: ops that return this op's value and the gradients of its first one, two, … operands.
        One of them replaces it in a forward pass that will be differentiated.
    results: names of the results of an op with several.

    Raises ValueError if an op of this name exists.
    """

    name: str
    infer: Callable[..., Types]
    eager: Callable[..., Any]
    vjp: Callable[..., tuple[fx.Node | None, ...]] | None = None
    flops: Callable[..., float] = _no_flops
    emit: Callable[..., str] | None = None
    dims: str | None = None
    cost: Cost = "recompute"
    augmented: tuple[Op, ...] = ()
    results: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name in OPS:
            raise ValueError(f"op {self.name} is defined twice")
        OPS[self.name] = self
        # torch.fx prints and looks up call_function targets by these two names.
        object.__setattr__(self, "__name__", self.name)
        object.__setattr__(self, "__module__", "llamac.ops")

    @property
    def is_loss(self) -> bool:
        """Return whether the op computes a loss or its gradient.

        The op may include the output projection.
        """
        return "cross_entropy" in self.name or "log_probability" in self.name

    def __call__(self, *operands: Any, **attributes: Any) -> Any:
        return self.eager(*operands, **attributes)

    def __repr__(self) -> str:
        return f"Op({self.name})"


def same_type(*operands: TensorType, **_attributes: Any) -> TensorType:
    """Return the first operand's type: the typing rule (`infer`) of elementwise ops."""
    return operands[0]
