"""[parallel]: degrees of the device mesh."""

from __future__ import annotations

from math import prod

from pydantic import Field

from llamac.spec.section import Section
from llamac.spec.units import Count

AXES = {
    "pp": "pipeline",
    "dp_replicate": "data_replicate",
    "dp_shard": "data_shard",
    "cp": "context",
    "tp": "tensor",
}
"""The axes of the device mesh, outermost first, and the keys that give their degrees."""


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
    pipeline_virtual: Count = Field(
        default=1,
        description="Stages each pipeline rank runs: one follows the 1F1B schedule; several, the "
        "interleaved one, with smaller bubbles and more communication.",
    )
    data_shard: Count = Field(default=1, description="Ranks that share the optimizer state (FSDP).")
    data_replicate: Count = Field(default=1, description="Copies of the sharded model (HSDP).")

    overlap: bool = Field(
        default=True,
        description="Collectives start early and are waited for late, under other work.",
    )

    @property
    def mesh(self) -> dict[str, int]:
        """Ranks along each axis of the device mesh, outermost first."""
        return {axis: getattr(self, key) for axis, key in AXES.items()}

    @property
    def ranks(self) -> int:
        """Processes of a run: the product of the degrees."""
        return prod(self.mesh.values())

    @property
    def stages(self) -> int:
        """Parts that the layers are cut into: pipeline rank r runs r, r + pipeline, …"""
        return self.pipeline * self.pipeline_virtual
