"""The same bits every time: what a GPU computes depends on nothing but its inputs."""

from __future__ import annotations

import os
from typing import Any

import torch


def fix_order_of_sums(device: torch.device) -> None:
    """Let kernels on CUDA add up in one fixed order, so that a resumed curve goes on bit for bit.

    Flash attention's backward and sums over repeated indices otherwise add in the order in which
    threads finish, cuBLAS may take another workspace, and Inductor may time kernels and take
    another. On CPUs sums have a fixed order anyway. Call it before the first kernel runs.
    """
    if device.type != "cuda":
        return
    import torch._inductor.config as inductor  # costs a second, and CPUs do not need it here

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # 32 MiB, as torch's on Hopper
    torch.use_deterministic_algorithms(True)
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = False  # every element is written
    inductor.deterministic = True
