"""plan.json: the predictions of `llamac plan`, written into a run directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamac.ir.program import Program
    from llamac.plan.device.device import Device
    from llamac.spec import Spec

UNKNOWN = "a100-80gb"  # assumed if this machine's GPU is unknown
DIGITS = 6  # beyond them, machines may differ in what they compute


def plan_json(spec: Spec, program: Program) -> str:
    """Return the text of plan.json, predictions for the spec's device or else for this machine.

    program: the Program compiled from the spec.
    Raises DeviceError if the spec names an unknown device.
    """
    from llamac.plan.predict import predict
    from llamac.plan.target import setting_for

    prediction = predict(setting_for(spec, planned_device(spec)), program)
    return json.dumps(_rounded(prediction.to_json()), indent=2) + "\n"


def planned_device(spec: Spec) -> Device:
    """Return the spec's device or else this machine's; an A100 if this machine's GPU is unknown.

    Raises DeviceError if the spec names an unknown device.
    """
    from llamac.plan.device.device import DeviceError, load_device
    from llamac.plan.target import device_for

    try:
        return device_for(spec)
    except DeviceError:
        if spec.hardware.gpu is not None:
            raise
        return load_device(UNKNOWN)  # an unknown GPU must not prevent training


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
