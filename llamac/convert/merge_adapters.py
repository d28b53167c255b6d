"""LoRA adapters: their names, and merging them into the base weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from llamac.convert.tensors import LazyTensor

SUFFIXES = A, B = ("_lora_a", "_lora_b")
"""Endings of the canonical names of an adapter's factors, A [rank, in] and B [out, rank]."""


def is_adapter_name(canonical: str) -> bool:
    """Return whether a canonical name denotes an adapter's A or B."""
    return canonical.endswith(SUFFIXES)


def adapted_weight(half: str) -> str:
    """Return the name of the weight that an adapter's A or B adapts: `…wq_lora_a` → `…wq`."""
    return half.removesuffix(A).removesuffix(B)


def merge_adapters(tensors: Mapping[str, LazyTensor], scale: float) -> dict[str, LazyTensor]:
    """Add low-rank adapters to the base weights: W + scale·B·A, computed when they are read.

    tensors: base weights and adapters by canonical name. scale: alpha / rank.
    The result has the names and declared dtypes of the base weights; sums are read in float32, or
    in float64 for such a base.
    """
    merged: dict[str, LazyTensor] = {}
    for name, base in tensors.items():
        a, b = (tensors.get(f"{name}{suffix}") for suffix in SUFFIXES)
        if not is_adapter_name(name):
            merged[name] = base if a is None or b is None else _sum(base, a, b, scale)
    return merged


def _sum(base: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float) -> LazyTensor:
    def read() -> Tensor:
        wide = torch.promote_types(base.dtype, torch.float32)
        return torch.addmm(base.read().to(wide), b.read().to(wide), a.read().to(wide), alpha=scale)

    return replace(base, read=read)
