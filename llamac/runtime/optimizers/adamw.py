"""AdamW (Loshchilov & Hutter 2019), LLaMA's optimizer (section 2.3 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class AdamW(torch.optim.AdamW):
    """torch's fused AdamW with two scalars on the device, which its kernels support for GradScaler.

    grad_scale: float32 scalar that divides the gradients inside the kernel, which clips them
    without another pass over memory; None for 1. found_inf: float32 scalar; 1.0 skips the step,
    changing neither parameters, moments nor step counts, without synchronising with the host.
    """

    STATES = ("exp_avg", "exp_avg_sq")  # float32, shaped as the parameter; see spec/optimizer.py

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, params: Iterable[Any], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, betas=betas, eps=eps, fused=True)
