"""[log]: console output, metrics and trackers of a run."""

from __future__ import annotations

from pydantic import Field

from llamac.spec.section import NonEmpty, Section
from llamac.spec.units import Count


class Log(Section):
    """Console output and metrics of a run."""

    every: Count = Field(
        default=10, description="Steps between printed lines; metrics.jsonl has every step."
    )
    tensorboard: bool = Field(default=True, description="Write TensorBoard event files as well.")
    wandb: NonEmpty | None = Field(
        default=None, description="Project of Weights & Biases that rows are sent to as well."
    )
    trackio: NonEmpty | None = Field(
        default=None, description="Project of Trackio that rows are written to as well."
    )
