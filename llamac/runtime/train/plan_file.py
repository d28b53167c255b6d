"""Compare a run's steps with the prediction in its plan.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..durable_files import read_json
from ..machine import log

WARM = 10  # steps to skip before comparing: they compile, and use memory for the first time
MAX_DEVIATION = 0.15  # relative deviation above which it is reported


@dataclass(frozen=True)
class PlannedStep:
    """Predicted time and memory of one step.

    device: name of the device that was planned for. step_seconds: seconds of a step.
    peak_memory_bytes: peak of a GPU's allocator or, on a CPU, of the whole process.
    """

    device: str
    step_seconds: float
    peak_memory_bytes: float

    def row(self) -> dict[str, float]:
        """Return the prediction as fields of a row of metrics, in seconds and bytes."""
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
    """Read the prediction in an emitted directory's plan.json.

    device: device of the run. Returns None if there is none, if it is for another kind of device or
    for a CPU that was not measured, or if the file is damaged, which is reported but never an
    error.
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
        planned = PlannedStep(str(plan["device"]), plan["step_seconds"], memory["total"] - own)
        if not (0 < planned.step_seconds < math.inf and 0 < planned.peak_memory_bytes < math.inf):
            raise ValueError("it has no predicted time or memory")
        return planned
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        log(f"{path} is damaged ({error}): the run is not compared with its plan")
        return None


def deviation(row: dict[str, Any]) -> str:
    """Return a message on how a step's time and memory deviate from the prediction, or "".

    row: row of metrics with the fields of `PlannedStep.row`. Deviations of up to `MAX_DEVIATION`
    are left out.
    """
    seconds, planned = row["step_seconds"], row["predicted_step_seconds"]
    measured, predicted_bytes = row["peak_memory_bytes"], row["predicted_peak_memory_bytes"]
    deviations = [
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
        if abs(real / predicted - 1) > MAX_DEVIATION
    ]
    if not deviations:
        return ""
    way = "measure this machine with `llamac plan --calibrate -o machine.toml` and set hardware.gpu"
    return f"off the plan: {' and '.join(deviations)}; {way}"


def _share(real: float, predicted: float) -> str:
    if real > 2 * predicted:
        return f"{real / predicted:.3g} times more"
    return f"{abs(real / predicted - 1):.0%} {'more' if real > predicted else 'less'}"
