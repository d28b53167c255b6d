"""Interface of the update rules in `runtime/optimizers`."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor


class Algorithm(Protocol):
    """Interface of a torch optimizer that `MixedPrecisionOptimizer` can use.

    STATES: names of its float32 states of the parameter's shape. grad_scale: scalar by which `step`
    divides gradients; None for 1. found_inf: scalar; if it is 1.0, `step` changes neither
    parameters, states nor step counts. state: master → its states by name, and `step`, the number
    of its updates as a float32 scalar. param_groups: torch's, with `lr` and `weight_decay`.
    """

    STATES: ClassVar[tuple[str, ...]]

    grad_scale: Tensor | None
    found_inf: Tensor | None
    state: Any
    param_groups: Any

    def __init__(self, params: Any, **hyperparameters: Any) -> None: ...
    def step(self) -> Any: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...
