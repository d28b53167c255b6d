"""[finetune]: method and objective of fine-tuning the weights of `init.from`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from llamac.spec.batch import Batch
from llamac.spec.data import Data
from llamac.spec.init import InitialWeights
from llamac.spec.model import GATED, Model
from llamac.spec.parallel import Parallel
from llamac.spec.section import FromArray, Section
from llamac.spec.units import Positive
from llamac.spec.validation.errors import Problem

Linear = Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3"]


class Finetune(Section):
    """Fine-tuning of the weights of `init.from`: all of them, or only adapters.

    An adapter of a linear with weight W adds (alpha / rank)·B·A to it, A [rank, in] and B
    [out, rank]; W is frozen (LoRA, arXiv:2106.09685, section 4.1).
    """

    method: Literal["full", "lora"] = Field(
        default="full",
        description="full trains every weight; lora freezes them and trains a low-rank adapter of "
        "each linear in `targets`, and checkpoints contain only the adapters.",
    )
    rank: Annotated[int, Field(ge=1, le=2**14)] = Field(
        default=16, description="Rank of the adapters of lora."
    )
    alpha: Positive = Field(
        default=32.0, description="Adapters of lora are scaled by alpha / rank."
    )
    # `_adapters` in passes/lower.py adds them to `layers.*`, where all of these linears are.
    targets: Annotated[tuple[Linear, ...], FromArray, Field(min_length=1)] = Field(
        default=("wq", "wk", "wv", "wo"),
        description="Linears of every layer that lora adapts, by their canonical names: wq, wk, wv "
        "and wo of attention, w1 (the gate), w2 (down) and w3 (up) of the feed-forward network.",
    )

    objective: Literal["cross_entropy", "dpo"] = Field(
        default="cross_entropy",
        description="cross_entropy learns to predict the targets. dpo learns from pairs of a "
        "chosen and a rejected answer, sources of kind preferences.",
    )
    beta: Positive = Field(
        default=0.1,
        description="Factor of dpo's rewards: an answer's reward is beta times its log-probability "
        "minus that under the initial weights.",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="Fraction of pairs that dpo assumes to be mislabelled."
    )

    @property
    def is_dpo(self) -> bool:
        """Return whether the objective is DPO, which compares answers (arXiv:2305.18290)."""
        return self.objective == "dpo"

    @property
    def is_lora(self) -> bool:
        """Return whether only adapters are trained, and all other weights are frozen."""
        return self.method == "lora"

    @property
    def scale(self) -> float:
        """Factor of an adapter's output, alpha / rank."""
        return self.alpha / self.rank

    def toml_values(self) -> dict[str, Any]:
        """Return the keys and values that `to_toml` writes: those that lora or dpo uses."""
        unused = {key for key, use in self._uses().items() if not use}
        found = {key: value for key, value in super().toml_values().items() if key not in unused}
        return found if self.is_lora or self.is_dpo else {}

    def _uses(self) -> dict[str, bool]:
        """Return whether each key that belongs to one method or objective has an effect."""
        uses: dict[str, bool] = dict.fromkeys(("rank", "alpha", "targets"), self.is_lora)
        uses |= dict.fromkeys(("objective", "beta", "label_smoothing"), self.is_dpo)
        return uses

    def rules(self) -> Iterator[Problem]:
        for key, use in self._uses().items():
            if self.is_set(key) and not use and key != "objective":
                now, then = 'method = "full"', 'method = "lora"'
                if key in ("beta", "label_smoothing"):
                    now, then = f'objective = "{self.objective}"', 'objective = "dpo"'
                message = f"`{key}` has no effect with {now}"
                yield Problem((key,), message, f"remove it, or set {then}", at="key")
        for index, name in enumerate(self.targets):
            if name in self.targets[:index]:
                yield Problem(("targets", index), f"{name} is named twice", "name it once")


def adapters_have_a_base(finetune: Finetune, init: InitialWeights) -> Iterator[Problem]:
    """Yield a problem if lora has no `init.from`, the weights to which it adds adapters."""
    if finetune.is_lora and not init.source:
        message = 'method = "lora" adapts existing weights, but [init] names none'
        ways = 'name an import or a run: from = "DIR" in [init], or --set init.from=DIR'
        yield Problem(("finetune", "method"), message, ways)


def preferences_have_a_reference(finetune: Finetune, init: InitialWeights) -> Iterator[Problem]:
    """Yield a problem if dpo has no `init.from`, the weights of its reference model."""
    if finetune.is_dpo and not init.source:
        message = 'objective = "dpo" needs the weights of a reference model, but [init] names none'
        ways = 'name an import or a run: from = "DIR" in [init], or --set init.from=DIR'
        yield Problem(("finetune", "objective"), message, ways)


def pairs_stay_together(finetune: Finetune, batch: Batch, parallel: Parallel) -> Iterator[Problem]:
    """Yield problems if dpo has half a pair in a micro-batch, or parts of sequences on a rank."""
    if finetune.is_dpo and batch.micro_batch % 2:
        message = f"micro_batch = {batch.micro_batch}, but dpo's sequences come in pairs"
        yield Problem(("batch", "micro_batch"), message, "use an even number, such as 2")
    for axis in ("context", "pipeline") if finetune.is_dpo else ():
        if (ranks := getattr(parallel, axis)) > 1:
            message = f"dpo compares whole sequences on one rank, but {axis} = {ranks}"
            ways = f"set parallel.{axis} = 1 and use tensor or data ranks"
            yield Problem(("parallel", axis), message, ways)


def preferences_have_an_objective(finetune: Finetune, data: Data) -> Iterator[Problem]:
    """Yield a problem if only one of objective dpo and sources of kind preferences is given."""
    if finetune.is_dpo != data.has_preferences:
        path = ("finetune", "objective") if finetune.is_dpo else ("data", "source", 0, "kind")
        message = f'objective = "{finetune.objective}" with sources of kind {data.source[0].kind}'
        yield Problem(path, message, 'preferences and objective = "dpo" need each other')


def targets_exist(finetune: Finetune, model: Model) -> Iterator[Problem]:
    """Yield a problem if lora targets w3 in a model without a gate; every model has the others."""
    if finetune.is_lora and model.activation not in GATED and "w3" in finetune.targets:
        message = f'targets names w3, but activation = "{model.activation}" has no gate'
        yield Problem(("finetune", "targets"), message, "leave it out; w1 is the up projection")
