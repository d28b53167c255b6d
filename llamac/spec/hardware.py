"""[hardware]: the machine for which a run is compiled."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from llamac.spec.section import NonEmpty, Section


class Hardware(Section):
    """The machine for which a run is compiled."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device to train on; auto takes a CUDA GPU if there is one."
    )
    gpu: NonEmpty | None = Field(
        default=None,
        description="GPU that `llamac plan` assumes: a100-80gb, h100-sxm, …, or a file written by "
        "`llamac plan --calibrate`. With device = auto, attention kernels are chosen "
        "for it, and the trainer falls back on other devices. Default: this machine's.",
    )
    peak_tflops: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        default=None,
        description="Peak of one device, TFLOP/s, from which MFU is computed. Default: the "
        "trainer measures the matmul peak of its machine.",
    )

    @property
    def kernels_for(self) -> Literal["auto", "cpu", "cuda"]:
        """Device for which kernels are chosen: `cpu`, `cuda`, or `auto` if unknown.

        Under device = auto it is the device of `gpu`, if a GPU is named.
        """
        if self.device != "auto" or self.gpu is None or self.gpu.endswith(".toml"):
            return self.device
        return "cpu" if self.gpu.lower() == "cpu" else "cuda"

    @property
    def hopper(self) -> bool:
        """Return whether `gpu` names a Hopper or Blackwell GPU."""
        return bool(self.gpu and re.match(r"g?[hb]\d", self.gpu.lower()))

    def is_file(self, key: str) -> bool:
        return key == "gpu" and self.gpu is not None and self.gpu.endswith(".toml")
