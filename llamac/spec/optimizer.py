"""[optimizer]: AdamW as the paper used it (Touvron et al. 2023 §2.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llamac.spec.section import FromArray, Section
from llamac.spec.units import Count, Positive

Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Section):
    """AdamW, as the paper used it (Touvron et al. 2023, section 2.3)."""

    kind: Literal["adamw"] = Field(default="adamw", description="Decoupled weight decay Adam.")
    lr: Annotated[float, Field(gt=0, le=10)] = Field(
        description="Peak learning rate, reached at the end of the warm-up."
    )
    betas: Annotated[tuple[Beta, Beta], FromArray] = Field(
        default=(0.9, 0.95), description="Decay of the first and of the second moment."
    )
    eps: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1e-8, description="Added to the root of the second moment."
    )
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.1, description="Decoupled decay of the weight matrices."
    )
    clip_norm: Positive = Field(default=1.0, description="Largest global norm of the gradient.")
    max_skipped_steps: Count = Field(
        default=10, description="Non-finite steps in a row before the run stops, steps."
    )
