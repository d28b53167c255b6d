"""Precision of kernels: sums and exponentials of 16-bit values are taken in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """bfloat16 and float16 → float32; wider dtypes are left as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
