"""Uncertainty of predictions: 10–90 % ranges from publications that were left out of the fit.

benchmarks/plan_accuracy.py writes `residuals.json`: quantiles of measured / predicted values, by
regime. The range of a regime with few or no rows is widened by the spread between sources.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from llamac.plan.prediction import Prediction

TABLE = Path(__file__).parent / "residuals.json"

CALIBRATED_CPU, UNCALIBRATED = "a calibrated CPU", "uncalibrated"
"""Regimes of CPUs, for which there are no published rows."""

Fit = Literal["yes", "tight", "no"]


@dataclass(frozen=True)
class Range:
    """10, 50 and 90 % quantiles of measured / predicted values."""

    low: float
    median: float
    high: float

    def scale(self, value: float) -> tuple[float, float]:
        """Return the (10 %, 90 %) quantiles of the actual value, given a predicted one."""
        return value * self.low, value * self.high


@dataclass(frozen=True)
class Uncertainty:
    """10–90 % ranges of a prediction.

    Attributes:
        regime: Kind of published runs from which the range of speed is derived.
        tokens_per_second: Throughput per device; None on a CPU that was not calibrated.
        days: Days of the run; None on a CPU that was not calibrated.
        memory: Bytes of a rank.
        fit: `yes`: it fits with a probability of 90 %; `no`: it probably does not fit; `tight`:
            anything between.
        margin: Capacity minus median memory in bytes; negative if `fit` is `no`.
    """

    regime: str
    tokens_per_second: tuple[float, float] | None
    days: tuple[float, float] | None
    memory: tuple[float, float]
    fit: Fit
    margin: float

    def to_json(self) -> dict[str, Any]:
        """Return the ranges as JSON values, with each range as [10 %, 90 %] or null."""
        return {
            "regime": self.regime,
            "tokens_per_second_per_gpu": self.tokens_per_second and list(self.tokens_per_second),
            "days": self.days and list(self.days),
            "memory_bytes": [round(value) for value in self.memory],
            "fit": self.fit,
            "margin_bytes": round(self.margin),
        }


def regime_of(nodes: float, tensor: int, tokens: float) -> str:
    """Return the regime of a GPU layout, such as "2-8 nodes, tp, small micro-batches".

    nodes: number of nodes, or a fraction of one. tensor: degree of tensor parallelism.
    tokens: tokens of a micro-batch divided by tensor and context ranks; below 4096 is small.
    """
    where = "one node" if nodes <= 1 else "2-8 nodes" if nodes <= 8 else "over 8 nodes"
    size = "small micro-batches" if tokens < 4096 else "large micro-batches"
    return f"{where}, {'tp' if tensor > 1 else 'no tp'}, {size}"


def regime(prediction: Prediction) -> str:
    """Return the regime of a prediction: as `regime_of` on GPUs, else a constant for CPUs."""
    spec, device = prediction.setting.spec, prediction.setting.device
    if not device.is_gpu:
        return CALIBRATED_CPU if device.calibrated else UNCALIBRATED
    parallel, batch = spec.parallel, spec.batch
    tokens = batch.micro_batch * batch.sequence_length / (parallel.tensor * parallel.context)
    return regime_of(parallel.ranks / device.gpus_per_node, parallel.tensor, tokens)


def speed_range(prediction: Prediction) -> Range | None:
    """Return the 10, 50 and 90 % quantiles of measured / predicted tokens per second.

    They are those of the prediction's regime, or of all published rows if the table lacks it. None
    for a CPU that was not calibrated, because CPUs differ too much.
    """
    name, table = regime(prediction), _table()["speed"]
    return None if name == UNCALIBRATED else Range(*table.get(name, table["any"]))


def memory_range() -> Range:
    """Return the 10, 50 and 90 % quantiles of measured / predicted peak memory."""
    return Range(*_table()["memory"])


def uncertainty(prediction: Prediction) -> Uncertainty:
    """Return the 10–90 % ranges of a prediction's throughput, duration and memory."""
    speed, memory = speed_range(prediction), memory_range()
    rate, days = prediction.tokens_per_second_per_gpu, prediction.days
    return Uncertainty(
        regime=regime(prediction),
        tokens_per_second=speed and speed.scale(rate),
        days=speed and (days / speed.high, days / speed.low),
        memory=memory.scale(prediction.memory.total),
        fit=fit_of(prediction),
        margin=prediction.setting.device.memory - prediction.memory.total * memory.median,
    )


def fit_of(prediction: Prediction) -> Fit:
    """Return "yes", "tight" or "no": how surely a prediction fits its device's memory."""
    return fit_within(prediction.memory.total, prediction.setting.device.memory)


def fit_within(nbytes: float, capacity: float) -> Fit:
    """Return how surely a predicted number of bytes fits a capacity in bytes.

    "yes" if 90 % of measured peaks would fit, "no" if the median one would not, else "tight".
    """
    memory = memory_range()
    if nbytes * memory.median > capacity:
        return "no"
    return "yes" if nbytes * memory.high <= capacity else "tight"


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))
