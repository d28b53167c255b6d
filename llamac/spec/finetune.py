"""[finetune]: what is trained of a model that the run begins from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from llamac.spec.init import InitialWeights
from llamac.spec.model import GATED, Model
from llamac.spec.section import FromArray, Section
from llamac.spec.units import Positive
from llamac.spec.validation.errors import Problem

Linear = Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3"]


class Finetune(Section):
    """Choose what is trained of the weights of `init.from`: all of them, or adapters beside them.

    An adapter of a linear with weight W adds (alpha / rank)·B·A to it, A [rank, in] and B
    [out, rank]; W is frozen (LoRA, arXiv:2106.09685, section 4.1).
    """

    method: Literal["full", "lora"] = Field(
        default="full",
        description="full trains every weight; lora freezes them and trains a low-rank adapter of "
        "each linear in `targets`. Checkpoints then hold the adapters alone.",
    )
    rank: Annotated[int, Field(ge=1, le=2**14)] = Field(
        default=16, description="Rank of the adapters of lora."
    )
    alpha: Positive = Field(
        default=32.0, description="Adapters of lora are scaled by alpha / rank."
    )
    targets: Annotated[tuple[Linear, ...], FromArray, Field(min_length=1)] = Field(
        default=("wq", "wk", "wv", "wo"),
        description="Linears of every layer that lora adapts, by their canonical names: wq, wk, wv "
        "and wo of attention, w1 (the gate), w2 (down) and w3 (up) of the feed-forward network.",
    )

    @property
    def adapts(self) -> bool:
        """Return whether adapters are trained, and all other weights frozen."""
        return self.method == "lora"

    @property
    def scale(self) -> float:
        """Factor of what the adapters add."""
        return self.alpha / self.rank

    def written(self) -> dict[str, Any]:
        """Return the keys and values that `to_toml` writes: none where all weights are trained."""
        return super().written() if self.adapts else {}

    def rules(self) -> Iterator[Problem]:
        for key in ("rank", "alpha", "targets") if not self.adapts else ():
            if self.given(key):
                message = f'`{key}` has no effect with method = "full"'
                yield Problem((key,), message, 'remove it, or set method = "lora"', at="key")
        for index, name in enumerate(self.targets):
            if name in self.targets[:index]:
                yield Problem(("targets", index), f"{name} is named twice", "name it once")


def adapters_have_a_base(finetune: Finetune, init: InitialWeights) -> Iterator[Problem]:
    """Require the weights that adapters are trained beside."""
    if finetune.adapts and not init.source:
        message = 'method = "lora" trains adapters of weights that are there, but none are named'
        ways = 'name an import or a run: from = "DIR" in [init], or --set init.from=DIR'
        yield Problem(("finetune", "method"), message, ways)


def targets_exist(finetune: Finetune, model: Model) -> Iterator[Problem]:
    """Require of the linears to adapt that the model has them."""
    if finetune.adapts and model.activation not in GATED and "w3" in finetune.targets:
        message = f'targets names w3, which a model with activation = "{model.activation}" has not'
        yield Problem(("finetune", "targets"), message, "leave it out; w1 is the up projection")
