"""[precision]: what the arithmetic is done in; master weights are always fp32."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llamac.spec.section import Section


class Precision(Section):
    """What the arithmetic is done in; master weights are always fp32."""

    compute: Literal["bf16", "fp32"] = Field(
        default="bf16",
        description="Type of weights, activations and gradients in forward and backward.",
    )
