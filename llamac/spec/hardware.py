"""[hardware]: the machine a run is for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llamac.spec.section import NonEmpty, Section


class Hardware(Section):
    """The machine a run is for."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to train; auto takes CUDA where there is one."
    )
    gpu: NonEmpty | None = Field(
        default=None,
        description="The device that `llamac plan` counts on: a100-80gb, h100-sxm, …, or a file "
        "that `llamac plan --calibrate` wrote. Default: this machine's.",
    )
    peak_tflops: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        default=None,
        description="Peak of one device in TFLOP/s, which MFU is measured against. "
        "Default: the trainer measures this machine's matmul peak.",
    )
