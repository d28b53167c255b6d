"""[schedule]: length of training and learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from llamac.spec.section import Section, require_one_of
from llamac.spec.units import Count, Fraction, Tokens
from llamac.spec.validation.errors import Problem


class Schedule(Section):
    """Length of training, given as either `steps` or `tokens`, and the learning-rate schedule.

    `Spec.total_steps` is the length in steps in both cases.
    """

    kind: Literal["cosine", "linear", "constant", "wsd"] = Field(
        default="cosine",
        description="Shape of the learning rate after the warm-up; wsd: constant, then linear.",
    )
    warmup_steps: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        default=2000, description="The learning rate first rises linearly over this many steps."
    )
    min_lr_ratio: Fraction = Field(
        default=0.1, description="Last learning rate as a fraction of the peak; not for constant."
    )
    decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Share of the steps after the warm-up in which wsd decays. Default: 0.1.",
    )
    steps: Count | None = Field(
        default=None, description="Optimizer steps to train; or give `tokens`."
    )
    tokens: Tokens | None = Field(default=None, description="Tokens to train on; or give `steps`.")

    def rules(self) -> Iterator[Problem]:
        yield from require_one_of(self, "steps", "tokens")
        if self.is_set("decay") and self.kind != "wsd":
            message = f'`decay` has no effect with kind = "{self.kind}"'
            yield Problem(("decay",), message, 'remove it, or use kind = "wsd"', at="key")

    def derived_values(self) -> dict[str, Any]:
        return {"decay": 0.1} if self.kind == "wsd" and not self.is_set("decay") else {}
