"""[kernels]: implementations from which the compiler may choose."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llamac.spec.section import Section
from llamac.spec.units import Count


class Kernels(Section):
    """Implementations that the compiler may choose."""

    attention: Literal["auto", "cudnn", "xformers", "sdpa", "math"] = Field(
        default="auto", description="Attention kernel; auto takes the best that the device can run."
    )
    compile: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="torch.compile the regions: auto does where a compiler is present.",
    )
    deterministic: bool = Field(
        default=True,
        description="On GPUs, add up in one fixed order, so that a resumed run goes on bit for "
        "bit; without, faster kernels may be taken, and it goes on within rounding.",
    )
    loss_chunk: Count = Field(
        default=1024, description="Tokens whose logits are alive at once in the loss."
    )
