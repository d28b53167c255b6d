"""[parallel]: degrees of the device mesh."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from pydantic import Field

from llamac.spec.section import Section
from llamac.spec.units import Count
from llamac.spec.validation.errors import Problem

AXES = {
    "pp": "pipeline",
    "dp_replicate": "data_replicate",
    "dp_shard": "data_shard",
    "cp": "context",
    "tp": "tensor",
}
"""Axes of the device mesh, outermost first, and the keys of [parallel] that set their degrees."""

WHOLE = {
    **dict.fromkeys(map("parallel.{}".format, ("tensor", "context", "pipeline")), 1),
    "parallel.pipeline_virtual": 1,
    "parallel.async_tensor": False,
}
"""Changes for `Spec.replace` that turn off tensor, context and pipeline parallelism."""

ONE_RANK = WHOLE | {"parallel.data_shard": 1, "parallel.data_replicate": 1}
"""Changes for `Spec.replace` that turn off all parallelism, for a run of a single rank."""


def micro_batches_per_round(micro_batches: int, ranks: int) -> int:
    """Return the micro-batches that a pipeline rank runs in one stage before its next stage.

    This is the round of the interleaved schedule in torch.distributed.pipelining.

    micro_batches: micro-batches per step. ranks: pipeline ranks.
    """
    return micro_batches // max(1, micro_batches // ranks)


class Parallel(Section):
    """Degrees of the device mesh, and options of each parallelism."""

    tensor: Count = Field(
        default=1, description="Tensor-parallel degree: ranks that split each weight matrix."
    )
    sequence: bool = Field(
        default=True,
        description="Split norms and residuals by position over the tensor ranks (Megatron's "
        "sequence parallelism). No effect unless tensor > 1.",
    )
    context: Count = Field(
        default=1, description="Context-parallel degree: ranks that split each sequence."
    )
    pipeline: Count = Field(
        default=1, description="Pipeline-parallel degree: ranks that split the layers."
    )
    pipeline_virtual: Count = Field(
        default=1,
        description="Stages per pipeline rank: 1 uses the 1F1B schedule, more the interleaved "
        "one, with smaller bubbles and more communication.",
    )
    data_shard: Count = Field(default=1, description="Ranks that shard the optimizer state (FSDP).")
    data_replicate: Count = Field(
        default=1, description="Replicas of the model, or of the sharded model (HSDP)."
    )

    overlap: bool = Field(
        default=True,
        description="Overlap collectives with computation.",
    )

    reduce_each: bool = Field(
        default=False,
        description="Reduce-scatter gradients after every micro-batch instead of once per step: "
        "ranks never hold unsharded gradients between micro-batches, at the price of "
        "more communication. No effect without FSDP or with pipeline > 1.",
    )

    async_tensor: bool = Field(
        default=False,
        description="Pipeline the all-gather before and the reduce-scatter after a linear layer "
        "with its matmul, through torch's symmetric memory; for GPUs joined by NVLink.",
    )

    def rules(self) -> Iterator[Problem]:
        if self.async_tensor and not (self.tensor > 1 and self.sequence):
            message = "async_tensor = true has no effect unless tensor > 1 and sequence = true"
            yield Problem(("async_tensor",), message, "set async_tensor = false")

    @property
    def mesh(self) -> dict[str, int]:
        """Number of ranks on each axis of the device mesh, outermost first."""
        return {axis: getattr(self, key) for axis, key in AXES.items()}

    @property
    def ranks(self) -> int:
        """Number of processes: the product of all degrees."""
        return prod(self.mesh.values())

    @property
    def data_ranks(self) -> int:
        """Data-parallel degree: data_shard × data_replicate."""
        return self.data_shard * self.data_replicate

    @property
    def fsdp_ranks(self) -> int:
        """Number of ranks that shard each parameter under FSDP: data_shard × context."""
        return self.data_shard * self.context

    @property
    def fsdp(self) -> bool:
        """Return whether FSDP wraps the model, to shard it or to replicate pipeline stages."""
        return self.fsdp_ranks > 1 or (self.data_replicate > 1 and self.pipeline > 1)

    @property
    def reduces_each(self) -> bool:
        """Return whether `reduce_each` has FSDP reduce gradients after every micro-batch."""
        return self.reduce_each and self.fsdp_ranks > 1 and self.pipeline == 1

    @property
    def model_ranks(self) -> int:
        """Number of ranks of one model replica: tensor × context × pipeline."""
        return self.tensor * self.context * self.pipeline

    @property
    def stages(self) -> int:
        """Number of pipeline stages; rank r runs stages r, r + pipeline and so on."""
        return self.pipeline * self.pipeline_virtual
