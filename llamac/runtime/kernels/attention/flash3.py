"""FlashAttention 3 for PyTorch's flash operators, on Hopper, if its package is installed."""

from __future__ import annotations

import importlib.util

import torch
from torch.nn import attention


def use_flash3() -> bool:
    """Switch torch's flash operators to FlashAttention 3 for the whole process, if possible.

    Returns whether it did: the GPU must be Hopper, this torch must support FlashAttention 3, and
    `flash_attn_interface` must be installed. Operators and shapes stay the same. The backward is
    deterministic if `torch.use_deterministic_algorithms` is set.
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        return False
    known = "FA3" in attention.list_flash_attention_impls()
    if not known or importlib.util.find_spec("flash_attn_interface") is None:
        return False
    attention.activate_flash_attention_impl("FA3")
    return True
