"""[log]: console output, metrics and trackers of a run."""

from __future__ import annotations

from pydantic import Field

from llamac.spec.section import NonEmpty, Section
from llamac.spec.units import Count


class Log(Section):
    """Console output, metrics and trackers of a run."""

    every: Count = Field(
        default=10, description="Steps between printed lines; metrics.jsonl records every step."
    )
    tensorboard: bool = Field(default=True, description="Write TensorBoard event files as well.")
    wandb: NonEmpty | None = Field(
        default=None, description="Weights & Biases project to also log to."
    )
    trackio: NonEmpty | None = Field(default=None, description="Trackio project to also log to.")
