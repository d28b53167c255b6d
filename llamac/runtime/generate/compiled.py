"""Compile the decoding step of an emitted inference.py into one call for all of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..machine import separate_caches

Caches = Sequence[tuple[Tensor, Tensor]]  # keys and values of each layer, [B, K, C, D]


def compile_step(step: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Return `decode_step` compiled: once for each model and number of rows, for any caches.

    On a CPU, Inductor takes the weights for constants and packs a copy of each for a C++ matmul of
    that many rows, which reads them as fast as memory delivers them. The model's own remain for
    prompts, so the weights take twice the memory.
    """
    if device.type == "cpu":
        separate_caches()
        from torch._inductor import config

        config.freezing = True  # asked for while tracing too: an option of torch.compile is not
        config.max_autotune_gemm = True
        config.max_autotune_gemm_backends = "CPP"
    compiled: Callable[..., Tensor] = torch.compile(step, fullgraph=True, dynamic=False)

    done: set[tuple[Any, int]] = set()

    def run(model: Any, caches: Caches, slots: Tensor, tokens: Tensor, *others: Tensor) -> Tensor:
        """slots: int64 [F], the positions that attention reads. tokens: int64 [B, 1]."""
        if (model, len(tokens)) in done:
            # Nothing else can differ, and comparing hundreds of weights takes a tenth of a step.
            with torch.compiler.set_stance(skip_guard_eval_unsafe=True):
                return compiled(model, caches, slots, tokens, *others)
        torch._dynamo.mark_dynamic(slots, 0)
        for pair in caches:
            for cache in pair:
                torch._dynamo.mark_dynamic(cache, 2)
        logits = compiled(model, caches, slots, tokens, *others)
        done.add((model, len(tokens)))
        return logits

    return run
