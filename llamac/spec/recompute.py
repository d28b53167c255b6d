"""[recompute]: activation checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from llamac.spec.section import Section
from llamac.spec.units import Bytes
from llamac.spec.validation.errors import Problem


class Recompute(Section):
    """Choice of activations to save for the backward pass; the others are recomputed."""

    policy: Literal["none", "full", "selective", "budget"] = Field(
        default="selective",
        description="none keeps every value; selective keeps the outputs of linear layers and "
        "attention and recomputes the rest, as LLaMA did; full keeps only each block's input; "
        "budget recomputes as little as `budget` bytes allow.",
    )
    budget: Bytes | None = Field(
        default=None,
        description='For policy = "budget": memory limit of each rank, bytes. Leave a few GB of a '
        "GPU for CUDA, NCCL and fragmentation.",
    )

    def rules(self) -> Iterator[Problem]:
        if self.policy == "budget" and self.budget is None:
            message = 'policy = "budget" needs `budget`, the memory limit of a rank'
            yield Problem(("policy",), message, 'for instance budget = "60GB"')
        if self.policy != "budget" and self.budget is not None:
            message = f'`budget` has no effect with policy = "{self.policy}"'
            yield Problem(("budget",), message, 'remove it, or set policy = "budget"', at="key")
