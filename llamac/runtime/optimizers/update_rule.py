"""Interface of an update rule, implemented by each file of `runtime/optimizers`."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor


class Algorithm(Protocol):
    """A torch optimizer as `MixedPrecisionOptimizer` uses it.

    STATES names its float32 tensors of the parameter's shape. `step` divides gradients by
    `grad_scale`, and where `found_inf` is 1.0 changes neither parameters, states nor step counts.
    """

    STATES: ClassVar[tuple[str, ...]]

    grad_scale: Tensor | None
    found_inf: Tensor | None
    state: Any
    param_groups: Any

    def __init__(self, params: Any, **hyperparameters: Any) -> None: ...
    def step(self) -> Any: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...
