"""The same bits every time: what a GPU computes depends on nothing but its inputs."""

from __future__ import annotations

import os
from typing import Any

import torch


def fix_order_of_sums(device: torch.device) -> None:
    """Make CUDA kernels deterministic, so that a resumed run repeats its loss curve bit for bit.

    Otherwise the order of sums varies in flash attention's backward and in scatter-adds, cuBLAS may
    choose another workspace, and Inductor may choose other kernels by timing. CPU kernels are
    deterministic anyway. Call it before the first kernel runs.
    """
    if device.type != "cuda":
        return
    import torch._inductor.config as inductor  # costs a second, and CPUs do not need it here

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # 32 MiB, as torch's on Hopper
    torch.use_deterministic_algorithms(True)
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = False  # every element is written
    inductor.deterministic = True
