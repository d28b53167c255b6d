"""Compare a run with the prediction for a step in its plan.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..durable_files import read_json
from ..machine import log

WARM = 10  # steps to skip: compilation and first use of memory
MOST = 0.15  # relative deviation above which it is reported


@dataclass(frozen=True)
class PlannedStep:
    """Predicted time and memory of one step on `device`, the name of a device file.

    peak_memory_bytes: of a GPU's allocator; on a CPU, of the whole process.
    """

    device: str
    step_seconds: float
    peak_memory_bytes: float

    def row(self) -> dict[str, float]:
        return {
            "predicted_step_seconds": self.step_seconds,
            "predicted_peak_memory_bytes": self.peak_memory_bytes,
        }

    def __str__(self) -> str:
        return (
            f"plan: for {self.device}, a step takes {self.step_seconds:.3g} s and holds "
            f"{self.peak_memory_bytes / 1e9:.2f} GB at its peak"
        )


def read_plan(directory: Path, device: torch.device) -> PlannedStep | None:
    """Read the prediction of an emitted directory; None without one, or for another kind of device.

    It is for comparison only: a damaged file is reported, and None returned.
    """
    path = directory / "plan.json"
    if not path.is_file():
        return None
    try:
        plan = read_json(path)
        if (plan["kind"] == "gpu") != (device.type == "cuda") or plan["device"] == "cpu":
            return None
        memory = plan["memory"]["per_gpu"]
        own = memory["overhead"] if device.type == "cuda" else 0
        found = PlannedStep(str(plan["device"]), plan["step_seconds"], memory["total"] - own)
        if not (0 < found.step_seconds < math.inf and 0 < found.peak_memory_bytes < math.inf):
            raise ValueError("it has no predicted time or memory")
        return found
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        log(f"{path} is damaged ({error}): the run is not compared with its plan")
        return None


def deviation(row: dict[str, Any]) -> str:
    """Return a line on how a step deviates from its prediction; "" if it does not."""
    seconds, planned = row["step_seconds"], row["predicted_step_seconds"]
    measured, predicted_bytes = row["peak_memory_bytes"], row["predicted_peak_memory_bytes"]
    found = [
        f"{what} {_share(real, predicted)} than planned ({shown})"
        for what, real, predicted, shown in (
            ("a step takes", seconds, planned, f"{seconds:.3g} s, not {planned:.3g}"),
            (
                "memory peaks",
                measured,
                predicted_bytes,
                f"{measured / 1e9:.2f} GB, not {predicted_bytes / 1e9:.2f}",
            ),
        )
        if abs(real / predicted - 1) > MOST
    ]
    if not found:
        return ""
    way = "measure this machine with `llamac plan --calibrate -o machine.toml` and set hardware.gpu"
    return f"off the plan: {' and '.join(found)}; {way}"


def _share(real: float, predicted: float) -> str:
    if real > 2 * predicted:
        return f"{real / predicted:.3g} times more"
    return f"{abs(real / predicted - 1):.0%} {'more' if real > predicted else 'less'}"
