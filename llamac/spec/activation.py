"""[activation]: which activations are kept for the backward pass."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llamac.spec.section import Section


class Activation(Section):
    """Which activations are kept for the backward pass."""

    checkpoint: Literal["none", "full", "selective"] = Field(
        default="selective",
        description="none keeps every value; selective keeps the outputs of linear layers and "
        "attention and recomputes the rest, as LLaMA did; full keeps only each block's input.",
    )
