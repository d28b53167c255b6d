"""[optimizer]: the update rule and its hyperparameters.

Each update rule has a class here and a file in `llamac/runtime/optimizers/`, named after its kind.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llamac.spec.section import FromArray, Section, default_tag
from llamac.spec.units import Count, Positive

Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Beta, Beta], FromArray]


class UpdateRule(Section):
    """Settings that all update rules share; a subclass adds the hyperparameters of its rule.

    STATES: names of the state tensors, float32, that the rule keeps for each parameter tensor.
    """

    STATES: ClassVar[tuple[str, ...]]

    lr: Annotated[float, Field(gt=0, le=10)] = Field(
        description="Peak learning rate, reached at the end of the warm-up."
    )
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.1, description="Decoupled weight decay of the weight matrices."
    )
    clip_norm: Positive = Field(
        default=1.0, description="Global gradient norm above which gradients are clipped."
    )
    max_skipped_steps: Count = Field(
        default=10, description="Consecutive non-finite steps after which the run stops."
    )

    @property
    def state_bytes(self) -> int:
        """Bytes of optimizer state per parameter element, without the float32 master weights."""
        return 4 * len(self.STATES)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Keyword arguments of the trainer's optimizer: all but kind, lr and max_skipped_steps."""
        elsewhere = {"kind", "lr", "max_skipped_steps"}
        return {key: value for key, value in self if key not in elsewhere}


class AdamW(UpdateRule):
    """AdamW, as in LLaMA (Touvron et al. 2023, section 2.3)."""

    STATES = ("exp_avg", "exp_avg_sq")

    kind: Literal["adamw"] = Field(default="adamw", description="Decoupled weight decay Adam.")
    betas: Betas = Field(
        default=(0.9, 0.95), description="Decay of the first and of the second moment."
    )
    eps: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1e-8, description="Added to the square root of the second moment."
    )


class Lion(UpdateRule):
    """Lion (Chen et al. 2023): updates by the sign of momentum interpolated with the gradient.

    It keeps one state per parameter, half of AdamW's.
    """

    STATES = ("exp_avg",)

    kind: Literal["lion"] = Field(description="Sign of an interpolated moment.")
    betas: Betas = Field(
        default=(0.9, 0.99),
        description="Weight of the moment in the update, and decay of the moment.",
    )


Optimizer = Annotated[AdamW | Lion, Field(discriminator="kind"), default_tag("kind", "adamw")]
