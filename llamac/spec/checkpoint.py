"""[checkpoint]: interval between checkpoints, and the number of them that are kept."""

from __future__ import annotations

from pydantic import Field

from llamac.spec.section import Section
from llamac.spec.units import Count


class Checkpoint(Section):
    """Interval between checkpoints, and the number of them that are kept."""

    every: Count = Field(default=1000, description="Steps between checkpoints.")
    keep: Count = Field(default=3, description="Newest checkpoints kept.")
    asynchronous: bool = Field(
        default=True,
        description="Write checkpoints in the background, from a copy in host memory of 12 bytes "
        "for each parameter whose optimizer state the rank holds.",
    )
