"""plan.json: what `llamac plan` predicts of a run, written into its directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamac.ir.program import Program
    from llamac.plan.device.device import Device
    from llamac.spec import Spec

PAPER = "a100-80gb"  # counted on where a spec is for GPUs and names none
DIGITS = 6  # beyond them, machines may differ in what they compute


def plan_json(spec: Spec, program: Program, here: bool = False) -> str:
    """The text of plan.json. here: for this machine, if the spec names no other; else for the
    device that the spec is for, whatever this machine is. Raises DeviceError."""
    from llamac.plan.predict import predict
    from llamac.plan.target import setting_for

    prediction = predict(setting_for(spec, _device(spec, here)), program)
    return json.dumps(_rounded(prediction.to_json()), indent=2) + "\n"


def _device(spec: Spec, here: bool) -> Device:
    from llamac.plan.device.device import DeviceError, load_device
    from llamac.plan.target import device_for

    hardware = spec.hardware
    if hardware.gpu is not None or hardware.device == "cpu":
        return device_for(spec)
    if here:
        try:
            return device_for(spec)
        except DeviceError:  # a GPU that nobody has described is no reason not to train
            pass
    return load_device(PAPER)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
