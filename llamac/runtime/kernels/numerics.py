"""Conversion to float32 for sums and exponentials, and chunks of tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Convert bfloat16 and float16 to float32; return wider dtypes unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def token_chunks(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield corresponding chunks of all tensors, each of at most `size` tokens along dim 0."""
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)
