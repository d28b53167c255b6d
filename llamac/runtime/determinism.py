"""Bitwise reproducible results on GPUs."""

from __future__ import annotations

import os
from typing import Any

import torch


def make_deterministic(device: torch.device) -> None:
    """Make CUDA kernels deterministic for this process, so that a resumed run repeats its losses.

    By default, the order of sums varies in flash attention's backward and in scatter-adds, cuBLAS
    may choose another workspace, and Inductor may choose other kernels by timing. Sets
    CUBLAS_WORKSPACE_CONFIG and options of torch, so call it before the first kernel runs. Does
    nothing on CPUs, whose kernels are deterministic.
    """
    if device.type != "cuda":
        return
    # Imported here because it takes a second and CPUs do not need it.
    import torch._inductor.config as inductor

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # 32 MiB, torch's default on Hopper
    torch.use_deterministic_algorithms(True)
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = False  # uninitialised memory is never read
    inductor.deterministic = True
