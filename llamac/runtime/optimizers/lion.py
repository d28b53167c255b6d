"""Lion (Chen et al. 2023, algorithm 2): updates by the sign of an interpolated moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lion(Optimizer):
    """Lion with decoupled weight decay, and one moment per parameter.

    grad_scale, found_inf: scalars as in `AdamW`. betas: weights of the old moment in the update,
    and in the new moment. Updates are larger than AdamW's, so the paper uses a learning rate 3 to
    10 times smaller, and a weight decay larger by the same factor.
    """

    STATES = ("exp_avg",)  # float32, shaped as the parameter; see spec/optimizer.py

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, params: Iterable[Any], *, betas: tuple[float, float]) -> None:
        super().__init__(params, {"betas": betas, "lr": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters that have gradients in place, without waiting for the device.

        closure: unused.
        """
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                keep, gradient = 1.0, parameter.grad
                if self.grad_scale is not None:
                    gradient = gradient / self.grad_scale
                if self.found_inf is not None:  # a skipped step must not propagate its NaNs
                    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
                    keep = 1.0 - self.found_inf
                update = state["exp_avg"].lerp(gradient, 1.0 - first).sign_()
                update.add_(parameter, alpha=group["weight_decay"])
                parameter.sub_(update.mul_(group["lr"] * keep))
                weight = torch.as_tensor((1.0 - second) * keep, dtype=torch.float32)
                state["exp_avg"].lerp_(gradient, weight.to(gradient.device))
                state["step"] += keep
