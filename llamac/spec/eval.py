"""[eval]: validation loss and a sample, while training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llamac.spec.section import Section
from llamac.spec.units import Count


class Eval(Section):
    """Validation loss and a sample, while training."""

    every: Count = Field(default=500, description="Steps between evaluations.")
    batches: Count = Field(
        default=8,
        description="Held-out batches in one evaluation, each of `batch.sequences` sequences, or "
        "as many as the validation split has.",
    )
    prompt: str = Field(
        default="", description="Beginning of the sample that each evaluation prints."
    )
    sample_tokens: Annotated[int, Field(ge=0, le=2**20)] = Field(
        default=64, description="Length of the sample, tokens; 0 prints none."
    )
    temperature: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.8, description="Sampling temperature; 0 always takes the likeliest token."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.95,
        description="Sample from the likeliest tokens that hold this much probability.",
    )
