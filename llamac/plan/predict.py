"""Predict a step from the Program: `predict(setting)`."""

from __future__ import annotations

from llamac.ir.program import Program
from llamac.plan.cost.step_model import StepModel
from llamac.plan.prediction import Prediction
from llamac.plan.setting import Setting


def predict(setting: Setting, program: Program | None = None) -> Prediction:
    """Predict one step of `setting`.

    Args:
        program: The compiled spec; None: compile it.
    """
    return StepModel(setting, program or setting.compile()).prediction()
