"""Energy and carbon of a run by the paper's formula (Touvron et al. 2023, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

from llamac.plan.prediction import Prediction

PUE = 1.1
"""Power usage effectiveness: power of the data centre relative to that of its devices."""
CARBON = 0.385
"""Kilograms of CO2 equivalent per kWh: the US average that the paper uses."""


@dataclass(frozen=True)
class Energy:
    """Energy of a whole run in MWh, and its emissions in tonnes of CO2 equivalent."""

    megawatt_hours: float
    tonnes: float


def energy(prediction: Prediction) -> Energy | None:
    """Return the energy and emissions of a run; None if the device's watts are unknown.

    Energy is device-hours × watts × `PUE`, emissions are energy × `CARBON`.
    """
    watts = prediction.setting.device.watts
    if not watts:
        return None
    hours = prediction.gpu_hours * watts * PUE / 1e6
    return Energy(hours, hours * CARBON)
