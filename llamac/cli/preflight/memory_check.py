"""Refuse a run whose predicted memory exceeds that of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamac.spec import SpecError

if TYPE_CHECKING:
    from llamac.ir.program import Program
    from llamac.plan.target import Device
    from llamac.spec import Spec

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class MemoryShortageError(Exception):
    """The run needs more memory than this machine has. The message suggests changes that fit."""

    exit_code = 2


def require_memory(spec: Spec, program: Program) -> None:
    """Raise MemoryShortageError if the predicted peak of a run exceeds this machine's memory.

    On a CPU all ranks share the machine's memory; on CUDA each has a GPU of its own, as large as
    GPU 0.

    program: the Program compiled from the spec.
    """
    import torch

    cuda = spec.hardware.device != "cpu" and torch.cuda.is_available()
    if cuda:
        capacity, ranks = torch.cuda.get_device_properties(0).total_memory, 1
    else:
        capacity, ranks = machine_memory(), spec.parallel.ranks
    device = _device(spec, cuda)
    needed = ranks * _peak(spec, program, device)
    if needed <= capacity:
        return
    where = "this GPU" if cuda else "this machine"
    message = f"{spec.name} needs {_gb(needed)} of memory, and {where} has {_gb(capacity)}"
    ways, least = [], needed
    for changes, smaller in _smaller(spec):
        least = ranks * _peak(smaller, None, device)
        if least <= capacity:
            options = " ".join(f"--set {key}={value}" for key, value in changes.items())
            ways.append(f"  {options} needs {_gb(least)}")
    hint = "These changes would fit:\n" + "\n".join(ways)
    if not ways:
        hint = (
            f"Its smallest layout needs {_gb(least)}: use a smaller model, or a machine with "
            "more memory"
        )
    raise MemoryShortageError(f"{message}. {hint}\nUse --anyway to train nevertheless")


def machine_memory() -> int:
    """Return the memory of this machine in bytes, or the cgroup's limit if that is lower."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in LIMITS:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # another version of cgroups, or "max"
            continue
    return min(limits)


def _device(spec: Spec, cuda: bool) -> Device:
    from llamac.plan.target import DeviceError, device_for

    try:
        return device_for(spec, None if cuda else "cpu")
    except DeviceError:  # an unknown GPU: torch reports its memory, and its speed is not needed
        return device_for(spec, "a100-80gb")


def _peak(spec: Spec, program: Program | None, device: Device) -> float:
    """Return the predicted peak memory of one rank's process in bytes."""
    from llamac.plan.predict import predict
    from llamac.plan.target import setting_for

    return predict(setting_for(spec, device), program).memory.total


def _smaller(spec: Spec) -> Iterator[tuple[dict[str, Any], Spec]]:
    """Yield changes that save memory without changing the loss curve, cheapest first."""
    least = {"batch.micro_batch": 1}
    recompute = {"recompute.policy": "full"}
    for changes in (least, recompute, least | recompute):
        drop = {"recompute.budget": None} if "recompute.policy" in changes else {}
        try:
            smaller = spec.replace(changes | drop)
        except SpecError:
            continue
        if smaller != spec:
            yield changes, smaller


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB"
