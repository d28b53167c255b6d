"""AdamW (Loshchilov & Hutter 2019), as the LLaMA paper trained with (section 2.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class AdamW(torch.optim.AdamW):
    """torch's fused AdamW with the two on-device inputs that its kernels take from a GradScaler.

    `grad_scale` (gradients are divided by it inside the kernel) does the clipping without another
    pass over memory; `found_inf` (1.0: change neither parameters, moments nor step counts) skips
    a step without synchronising with the host.
    """

    STATES = ("exp_avg", "exp_avg_sq")  # float32, shaped as the parameter; see spec/optimizer.py

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, params: Iterable[Any], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, betas=betas, eps=eps, fused=True)
