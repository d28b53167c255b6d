"""Learning-rate schedules as pure functions of the step.

A shape maps (progress, decay) to the fraction of the way from `min_ratio` to 1 that is left.
progress: 0 at the end of the warm-up, 1 at the last update. decay: fraction of the updates after
the warm-up in which a shape decays, if it uses that.
"""

from __future__ import annotations

import math


def cosine(progress: float, decay: float) -> float:
    """Return a half cosine, from 1 at progress 0 to 0 at 1, as in LLaMA (section 2.3).

    SGDR, Loshchilov & Hutter 2017, equation 5. decay: unused.
    """
    return (1.0 + math.cos(math.pi * progress)) / 2.0


def linear(progress: float, decay: float) -> float:
    """Return a linear decay, from 1 at progress 0 to 0 at 1. decay: unused."""
    return 1.0 - progress


def constant(progress: float, decay: float) -> float:
    """Return 1: the rate stays at its peak, so `min_ratio` has no effect. Arguments are unused."""
    return 1.0


def wsd(progress: float, decay: float) -> float:
    """Return the warmup-stable-decay schedule (Hu et al. 2024): 1, then linear to 0 at the end.

    progress: from 0 after the warm-up to 1. decay: progress that the linear part takes, above 0.
    """
    return min(1.0, (1.0 - progress) / decay)


SHAPES = {"cosine": cosine, "linear": linear, "constant": constant, "wsd": wsd}
"""`schedule.kind` of a spec → function (progress, decay) that gives the schedule's shape."""


def learning_rate(
    step: int,
    *,
    kind: str,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    min_ratio: float,
    decay: float = 1.0,
) -> float:
    """Return the learning rate of update `step`, counted from 0.

    Warm-up is linear and reaches `peak` at the `warmup_steps`-th update; the decay, unless `kind`
    is "constant", then ends at `peak * min_ratio` exactly at the `total_steps`-th update, and later
    updates keep that rate. kind: key of SHAPES, else ValueError. decay: fraction of the updates
    after the warm-up in which "wsd" decays; unused by others.
    """
    if kind not in SHAPES:
        raise ValueError(f"unknown schedule {kind!r}; known: {', '.join(SHAPES)}")
    update = step + 1
    if update <= warmup_steps:
        return peak * update / warmup_steps
    progress = min(1.0, (update - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (min_ratio + (1.0 - min_ratio) * SHAPES[kind](progress, decay))
