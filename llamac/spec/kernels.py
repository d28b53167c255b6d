"""[kernels]: implementations of ops that the compiler may choose."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llamac.spec.section import Section
from llamac.spec.units import Count


class Kernels(Section):
    """Implementations of ops that the compiler may choose."""

    attention: Literal["auto", "cudnn", "xformers", "sdpa", "math"] = Field(
        default="auto",
        description="Attention kernel; auto takes the fastest that the device can run.",
    )
    compile: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Compile the regions with torch.compile; auto does if a compiler is installed, "
        "except in short runs on a CPU.",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="On GPUs, capture a micro-batch's forward and backward as a CUDA graph, unless "
        "FSDP or a pipeline schedule runs in between.",
    )
    deterministic: bool = Field(
        default=True,
        description="On GPUs, use kernels that sum in a fixed order, so that a resumed run "
        "continues bit for bit. Off: faster kernels may be used, and a resumed run "
        "agrees within rounding.",
    )
    loss_chunk: Count = Field(
        default=1024,
        description="Tokens per chunk of the loss: only one chunk's logits are in "
        "memory at a time.",
    )
