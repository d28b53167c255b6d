"""FlashAttention 3 behind PyTorch's flash operators, on Hopper, where its package is installed."""

from __future__ import annotations

import importlib.util

import torch
from torch.nn import attention


def use_flash3() -> bool:
    """Let torch's flash operators run FlashAttention 3's kernels if they are here; say if they do.

    The operators, their shapes and their meaning stay the same. Its backward keeps to a fixed order
    of sums where torch's setting asks for deterministic algorithms.
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        return False
    known = "FA3" in attention.list_flash_attention_impls()
    if not known or importlib.util.find_spec("flash_attn_interface") is None:
        return False
    attention.activate_flash_attention_impl("FA3")
    return True
