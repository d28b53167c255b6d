"""[log]: what a run says about itself."""

from __future__ import annotations

from pydantic import Field

from llamac.spec.section import Section
from llamac.spec.units import Count


class Log(Section):
    """What a run says about itself."""

    every: Count = Field(
        default=10, description="Steps between printed lines; metrics.jsonl has every step."
    )
    tensorboard: bool = Field(default=True, description="Write TensorBoard event files as well.")
