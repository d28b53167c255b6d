"""Precision of kernels: sums and exponentials of 16-bit values are taken in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Convert bfloat16 and float16 to float32; return wider dtypes unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
