"""Predict the time, memory and traffic of a setting."""

from __future__ import annotations

from llamac.ir.program import Program
from llamac.plan.cost.step_model import StepModel
from llamac.plan.prediction import Prediction
from llamac.plan.setting import Setting


def predict(setting: Setting, program: Program | None = None) -> Prediction:
    """Predict one step of a setting, and the whole run.

    program: the setting's compiled spec; None compiles it.
    """
    return StepModel(setting, program or setting.compile()).prediction()
