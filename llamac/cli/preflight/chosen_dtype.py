"""Choice of a dtype that is fast on this machine, if the spec does not set one."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamac.spec import Spec

BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}
"""Flags in /proc/cpuinfo of CPUs with bf16 matmuls: two of x86, one of Arm."""

SLOW = "this CPU has no bf16 arithmetic and is slower in it than in fp32"


def choose_dtype(spec: Spec, run: Path) -> tuple[Spec, str]:
    """Return (spec with `precision.compute` for this machine, note for the user or "").

    If the spec does not set it, it is bf16 on CUDA and on CPUs with bf16 arithmetic, else fp32; a
    run with checkpoints keeps its dtype, on which its loss curve depends. If the spec sets it, the
    spec is returned as it is, and the note warns of slow bf16.

    run: run directory, which may not exist.
    """
    import torch

    cuda = spec.hardware.device != "cpu" and torch.cuda.is_available()
    fast = cuda or multiplies_in_bf16()
    if spec.precision.is_set("compute"):
        slow = spec.precision.compute == "bf16" and not fast
        return spec, f"compute: bf16, as set in the spec, but {SLOW}" if slow else ""
    compute = _dtype_of_run(run) or ("bf16" if fast else "fp32")
    word = "compute: fp32, as this CPU has no bf16 arithmetic; set precision.compute to change it"
    return spec.replace({"precision.compute": compute}), "" if compute == "bf16" else word


def slow_on_this_cpu(spec: Spec) -> str:
    """Return a warning if the spec sets bf16 for a CPU and this one computes it slowly, else ""."""
    asked = spec.hardware.device == "cpu" and spec.precision.is_set("compute")
    return SLOW if asked and spec.precision.compute == "bf16" and not multiplies_in_bf16() else ""


def multiplies_in_bf16() -> bool:
    """Return whether this CPU has bf16 matmuls; False where /proc/cpuinfo does not say so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").lower().splitlines()
    except OSError:
        return False
    flags = (line.split() for line in lines if line.startswith(("flags", "features")))
    return not BF16_FLAGS.isdisjoint(next(flags, ()))


def _dtype_of_run(run: Path) -> str | None:
    """Return the dtype that a run's checkpoints were trained in; None if it has none."""
    if not any(run.glob("checkpoints/step-*")):
        return None
    try:
        spec = tomllib.loads((run / "spec.toml").read_text(encoding="utf-8"))
        return spec["precision"]["compute"]
    except (OSError, ValueError, KeyError, TypeError):  # its errors are reported elsewhere
        return None
