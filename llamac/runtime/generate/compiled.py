"""Compile the decoding step of an emitted inference.py as one function for all layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels.packed_linear import has_panels
from ..machine import separate_caches

Caches = Sequence[tuple[Tensor, Tensor]]  # keys and values of each layer, [B, K, C, D]


def compile_step(
    step: Callable[..., Tensor], model: Any, pack: Callable[[Any], None]
) -> Callable[..., Tensor]:
    """Return `decode_step` compiled: once for one row, and once for any larger number on a CPU.

    step: the emitted function, called as `step(model, caches, slots, *tensors per row)`. pack:
    packs the model's weights in place, which is done on a CPU if llamac's own kernel multiplies
    them. Otherwise Inductor treats a CPU's weights as constants and packs a copy of each, so they
    take twice the memory, as prompts need the originals: for one row, for C++ matmuls, which are
    bound by memory bandwidth only; for several rows, for oneDNN, whose matmuls compute faster.
    Inductor would choose MKL in float32 unless the number of rows is symbolic.
    """
    cpu = model.tok_embeddings.is_cpu
    constants = cpu and not has_panels(model.tok_embeddings)
    if cpu:
        separate_caches()
        from torch._inductor import config

        if not constants:
            pack(model)
        config.freezing = constants  # asked for while tracing too: an option of compile is not
        config.max_autotune_gemm_backends = "CPP"
    compiled: Callable[..., Tensor] = torch.compile(step, fullgraph=True, dynamic=False)

    done: set[tuple[Any, int]] = set()

    def run(model: Any, caches: Caches, slots: Tensor, *by_row: Tensor) -> Tensor:
        """slots: int64 [F], the positions that attention reads. by_row: tensors [B, 1, ...]."""
        rows = len(by_row[0])
        several = cpu and rows > 1
        key = model, 2 if several else rows
        if key in done:
            # Nothing else can differ, and comparing hundreds of weights takes a tenth of a step.
            with torch.compiler.set_stance(skip_guard_eval_unsafe=True):
                return compiled(model, caches, slots, *by_row)
        parts = [cache for pair in caches for cache in pair]
        torch._dynamo.mark_dynamic(slots, 0)
        for cache in parts:
            torch._dynamo.mark_dynamic(cache, 2)
        for tensor in (*by_row, *parts) if several else ():
            torch._dynamo.mark_dynamic(tensor, 0)
        if cpu:
            config.max_autotune_gemm = constants and not several
        logits = compiled(model, caches, slots, *by_row)
        done.add(key)
        return logits

    return run
