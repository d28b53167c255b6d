"""[launch]: the process a run starts in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llamac.spec.section import Section, Text
from llamac.spec.units import Count

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Launch(Section):
    """The process a run starts in."""

    threads: Count | None = Field(
        default=None, description="Threads inside one torch operation. Default: torch's own choice."
    )
    environment: dict[Variable, Text] = Field(
        default={}, description="Environment variables exported by the launch script."
    )
