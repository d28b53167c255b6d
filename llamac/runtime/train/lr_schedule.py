"""The learning rate as a pure function of the step: resuming needs no state, a plot no run."""

from __future__ import annotations

import math


def learning_rate(
    step: int,
    *,
    kind: str,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    min_ratio: float,
) -> float:
    """The rate of update `step` (0-based; updates past the end keep the last rate).

    Warm-up is linear and reaches `peak` at update number `warmup_steps`; the decay then ends at
    `peak * min_ratio` exactly on the last update. `kind` is "cosine" (SGDR, Loshchilov & Hutter
    2017, eq. 5, with no restart; LLaMA §2.2 takes 2,000 warm-up steps and a ratio of 0.1),
    "linear" or "constant" (no decay at all, so `min_ratio` plays no part).
    """
    update = step + 1
    if update <= warmup_steps:
        return peak * update / warmup_steps
    progress = min(1.0, (update - warmup_steps) / max(1, total_steps - warmup_steps))
    if kind == "cosine":
        remaining = (1.0 + math.cos(math.pi * progress)) / 2.0
    elif kind == "linear":
        remaining = 1.0 - progress
    elif kind == "constant":
        return peak
    else:
        raise ValueError(f"unknown schedule {kind!r}: expected 'cosine', 'linear' or 'constant'")
    return peak * (min_ratio + (1.0 - min_ratio) * remaining)
