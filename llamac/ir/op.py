"""The `Op` class: one operation with its typing, execution and differentiation rules.

Ops themselves are defined in `llamac.ops`, one file per family. An op's operands are positional
arguments (values, or None where optional) and its attributes are keyword arguments (plain Python
literals); an fx node that calls it is laid out in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llamac.ir.types import TensorType, Types

if TYPE_CHECKING:
    from torch import fx

OPS: dict[str, Op] = {}

# Cost class of an op, from which checkpointing chooses what to save for the backward pass:
#   save       recomputation takes a matmul or an attention: saved by the selective policy
#   recompute  memory-bound: cheaper to recompute than to save
#   view       has no memory of its own: its operand is saved instead
Cost = Literal["save", "recompute", "view"]


def _no_flops(*_operands: Any, **_attributes: Any) -> float:
    return 0


@dataclass(frozen=True, eq=False)
class Op:
    """One operation and all its rules; calling it runs the eager implementation.

    infer(*operand types, **attributes) gives the type(s) of the result(s) or raises TypeRuleError.
    eager(*tensors, **attributes) computes them; it lives in `llamac.runtime`, so that the emitted
        trainer runs the very code that was verified.
    vjp(gradient builder, node, *cotangents) gives one cotangent (or None) per operand.
    flops(*operand shapes, **attributes) counts a multiply-add as two; a shape is a tuple of ints.
    dims names the dimensions of operands and results in the notation of `llamac.ir.layout`; an op
        without dims is a collective, whose `infer` gives the layouts of its results.
    emit(*operand expressions, **attributes) is a Python expression; None means a plain call of
        `eager` imported from its module.
    augmented are ops that return this op's value and the gradients of its first one, two, …
        operands; one of them replaces it in a forward pass that will be differentiated.
    results names the results of an op with several.

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
    def scores_tokens(self) -> bool:
        """Return whether the op is a loss: of logits that it reads, or computes in chunks."""
        return "cross_entropy" in self.name or "log_probability" in self.name

    def __call__(self, *operands: Any, **attributes: Any) -> Any:
        return self.eager(*operands, **attributes)

    def __repr__(self) -> str:
        return f"Op({self.name})"


def same_type(*operands: TensorType, **_attributes: Any) -> TensorType:
    """Return the first operand's type: the typing rule (`infer`) of elementwise ops."""
    return operands[0]
