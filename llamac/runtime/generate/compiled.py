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
    step: Callable[..., Tensor], device: torch.device, pack: Callable[[Any], None]
) -> Callable[..., Tensor]:
    """Return a decoding step compiled once for each model and number of rows, for any caches.

    step: emitted function (model, caches, slots, *by_row) → logits. slots: int64 [F], the cache's
    positions that attention reads. by_row: tensors [B, 1, ...]. pack: lays out a model's weights in
    place for llamac's CPU kernel.

    On a CPU, the first batch decides how a model's weights are read. For several rows `pack` lays
    them out if llamac's own kernel multiplies them. Otherwise Inductor takes them for constants and
    packs a copy of each: for one row, for C++ matmuls, which read a little faster than that kernel;
    for several, for oneDNN, whose matmuls compute faster. It chooses MKL in float32 unless the
    number of rows is symbolic, which also spares compiling for each number. The model's own weights
    remain for prompts, so constants take twice the memory.
    """
    cpu = device.type == "cpu"
    if cpu:
        separate_caches()
        from torch._inductor import config

        config.max_autotune_gemm_backends = "CPP"
    compiled: Callable[..., Tensor] = torch.compile(step, fullgraph=True, dynamic=False)

    done: set[tuple[Any, int]] = set()
    panels: bool | None = None  # of all models alike: dynamo would take one kind for the other

    def run(model: Any, caches: Caches, slots: Tensor, *by_row: Tensor) -> Tensor:
        """slots: int64 [F], the positions that attention reads. by_row: tensors [B, 1, ...]."""
        nonlocal panels
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
            if panels is None:
                panels = several and has_panels(model.tok_embeddings)
                config.freezing = not panels  # read while tracing too: no option of torch.compile
            if panels and all(model is not other for other, _ in done):
                pack(model)
            config.max_autotune_gemm = not panels and not several
        logits = compiled(model, caches, slots, *by_row)
        done.add(key)
        return logits

    return run
