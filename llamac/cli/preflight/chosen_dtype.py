"""The dtype of a run whose spec leaves it open: one that the machine is fast in."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamac.spec import Spec

BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}
"""Flags in /proc/cpuinfo of CPUs that multiply in bf16: two of x86, one of Arm."""


def for_this_machine(spec: Spec, run: Path) -> tuple[Spec, str]:
    """Return the spec as it is to be trained here, and a word on its dtype or "".

    A CPU without arithmetic in bf16 computes in fp32, unless the spec gives `precision.compute`. A
    run that has begun keeps what it began with, which its loss curve depends on.
    """
    import torch

    cuda = spec.hardware.device != "cpu" and torch.cuda.is_available()
    fast = cuda or multiplies_in_bf16()
    if spec.precision.given("compute"):
        slow = spec.precision.compute == "bf16" and not fast
        return spec, "compute: bf16, as the spec asks; this CPU is faster in fp32" if slow else ""
    compute = _begun_in(run) or ("bf16" if fast else "fp32")
    word = "compute: fp32, as this CPU has no arithmetic in bf16; precision.compute decides"
    return spec.replace({"precision.compute": compute}), "" if compute == "bf16" else word


def multiplies_in_bf16() -> bool:
    """Return whether this CPU multiplies in bf16; False where that cannot be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").lower().splitlines()
    except OSError:
        return False
    flags = (line.split() for line in lines if line.startswith(("flags", "features")))
    return not BF16_FLAGS.isdisjoint(next(flags, ()))


def _begun_in(run: Path) -> str | None:
    """Return the dtype that a run's checkpoints were trained in; None if it has none."""
    if not any(run.glob("checkpoints/step-*")):
        return None
    try:
        spec = tomllib.loads((run / "spec.toml").read_text(encoding="utf-8"))
        return spec["precision"]["compute"]
    except (OSError, ValueError, KeyError, TypeError):  # what is wrong with it is said elsewhere
        return None
