"""[parallel]: degrees of the device mesh."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from pydantic import Field

from llamac.spec.errors import Problem
from llamac.spec.section import Section
from llamac.spec.units import Count

NOT_YET = ("pipeline",)


class Parallel(Section):
    """Degrees of the device mesh."""

    tensor: Count = Field(default=1, description="Ranks that share each weight matrix.")
    sequence: bool = Field(
        default=True,
        description="Norms and residuals work on a tensor rank's part of the positions "
        "(Megatron's sequence parallelism). Means nothing unless tensor > 1.",
    )
    context: Count = Field(default=1, description="Ranks that share each sequence.")
    pipeline: Count = Field(default=1, description="Ranks that share the layers.")
    data_shard: Count = Field(default=1, description="Ranks that share the optimizer state (FSDP).")
    data_replicate: Count = Field(default=1, description="Copies of the sharded model (HSDP).")

    overlap: bool = Field(
        default=True,
        description="Collectives start early and are waited for late, under other work.",
    )

    @property
    def ranks(self) -> int:
        """Processes of a run: the product of the degrees."""
        return prod(
            (self.pipeline, self.data_replicate, self.data_shard, self.context, self.tensor)
        )

    def rules(self) -> Iterator[Problem]:
        for axis, degree in self:
            if axis in NOT_YET and degree != 1:
                message = f"{axis} = {degree}, but this version has no such ranks yet"
                yield Problem((axis,), message, f"use {axis} = 1")
