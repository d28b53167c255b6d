"""[precision]: dtypes of the computation; master weights are always fp32."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llamac.spec.section import Section

ITEM_SIZE = {"bf16": 2, "fp32": 4}
"""Bytes per element, by compute dtype."""


class Precision(Section):
    """Dtypes of the computation; master weights are always fp32."""

    compute: Literal["bf16", "fp32"] = Field(
        default="bf16",
        description="Type of weights, activations and gradients in forward and backward. If not "
        "given, `llamac train` takes fp32 on a CPU without bf16 arithmetic.",
    )

    @property
    def item_size(self) -> int:
        """Bytes per element of the compute dtype."""
        return ITEM_SIZE[self.compute]
