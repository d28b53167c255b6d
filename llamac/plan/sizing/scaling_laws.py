"""Scaling laws: the compute-optimal model for a budget of training FLOPs.

C: training FLOPs. N: parameters. D: tokens. C = 6·N·D (Kaplan et al. 2020, section 2.1), which
excludes attention's FLOPs, as the laws do. Losses are in nats per token of their authors' text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llamac.plan.device.device import Device

PETAFLOP_DAY = 86_400e15
"""FLOPs of a petaFLOP/s-day."""
SMALLEST, LARGEST = 1e15, 1e28
"""Smallest and largest budget in FLOPs for which the laws are used."""
USE = 0.45
"""Default fraction of a device's peak that training reaches: PaLM's was 46 % (Chowdhery et al.
2022, table 3)."""


class ComputeBudgetError(ValueError):
    """A compute budget is malformed, outside the range of the laws, or too small for any model."""

    exit_code = 2


@dataclass(frozen=True)
class LossLaw:
    """Law of the loss L(N, D) = E + A / N^α + B / D^β (Hoffmann et al. 2022, section 3.3).

    N: parameters. D: tokens. L: nats per token. name: display name.
    """

    name: str
    e: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Return the loss, in nats per token, of a model trained on `tokens` tokens."""
        return self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta

    def optimum(self, flops: float) -> float:
        """Return the parameter count with the smallest loss at 6·N·D = `flops` (equation 4)."""
        sums = self.alpha + self.beta
        scale = (self.alpha * self.a / (self.beta * self.b)) ** (1 / sums)
        return scale * (flops / 6) ** (self.beta / sums)

    def tokens_for(self, loss: float, parameters: float) -> float | None:
        """Return the tokens on which a model reaches a loss; None if it never does."""
        data_term = loss - self.e - self.a / parameters**self.alpha
        return (self.b / data_term) ** (1 / self.beta) if data_term > 0 else None


HOFFMANN = LossLaw(
    "Chinchilla, approach 3", 1.69337368, 406.401018, 410.722827, 0.33917084, 0.2849083
)
"""Hoffmann et al. 2022, equation 10, with the digits that Besiroglu et al. 2024 found in its file.

With exponents rounded to two digits, results differ from the paper's table A3 by a fifth.
"""
BESIROGLU = LossLaw("approach 3, refitted", 1.8172, 482.01, 2085.43, 0.3478, 0.3658)
"""Besiroglu et al. 2024, "Chinchilla Scaling: A replication attempt", table 1.

This is fitted to the same data, without stopping the optimizer of the fit early.
"""


@dataclass(frozen=True)
class Optimum:
    """Compute-optimal model of a law for a budget.

    key: name of the law on the command line. name: display name. loss: nats per token.
    """

    key: str
    name: str
    parameters: float
    tokens: float
    loss: float

    @property
    def flops(self) -> float:
        """Return the training FLOPs, 6·N·D."""
        return 6 * self.parameters * self.tokens


def optima(flops: float) -> list[Optimum]:
    """Return the optimum of a budget by each law, all with the loss that `BESIROGLU` gives.

    Approaches 1 and 2 are power laws through a row of Hoffmann et al. 2022, tables 3 and A3:
    67B parameters at 5.76e23 FLOPs, C^0.50, and at 6.88e23, C^0.49. Kaplan et al. 2020, table 6:
    1.3e9 · (C / PF-day)^0.73, without embeddings.
    """
    sizes = {
        "chinchilla-1": ("Chinchilla, approach 1", 67e9 * (flops / 5.76e23) ** 0.50),
        "chinchilla-2": ("Chinchilla, approach 2", 67e9 * (flops / 6.88e23) ** 0.49),
        "chinchilla-3": (HOFFMANN.name, HOFFMANN.optimum(flops)),
        "refitted": (BESIROGLU.name, BESIROGLU.optimum(flops)),
        "kaplan": ("Kaplan", 1.3e9 * (flops / PETAFLOP_DAY) ** 0.73),
    }
    return [_optimum(key, name, size, flops) for key, (name, size) in sizes.items()]


def _optimum(key: str, name: str, parameters: float, flops: float) -> Optimum:
    tokens = flops / (6 * parameters)
    return Optimum(key, name, parameters, tokens, BESIROGLU.loss(parameters, tokens))


@dataclass(frozen=True)
class SmallerModel:
    """A model smaller than the optimum that reaches its loss on more tokens, as LLaMA's do.

    share: parameters relative to the optimum's. loss: the optimum's, in nats per token.
    repaid: inference tokens after which cheaper inference offsets the more expensive training.
    same: loss if trained with the optimum's FLOPs.
    """

    share: float
    parameters: float
    tokens: float
    loss: float
    repaid: float
    same: float

    @property
    def flops(self) -> float:
        """Return the training FLOPs, 6·N·D."""
        return 6 * self.parameters * self.tokens

    @property
    def inference(self) -> float:
        """Return the inference FLOPs per token, 2·N."""
        return 2 * self.parameters


SHARES = (1.0, 0.75, 0.5, 0.35, 0.25)


def smaller_models(best: Optimum, law: LossLaw = BESIROGLU) -> Iterator[SmallerModel]:
    """Yield the optimum, and smaller models that reach its loss on more tokens, largest first.

    Their sizes are the `SHARES` of the optimum's, up to the first that never reaches the loss.

    The model that is cheapest to train to a loss is not the cheapest at inference (Touvron et al.
    2023, section 1). As in Sardana et al. 2023, training takes 6·N·D FLOPs, and inference 2·N per
    token. law: gives the losses.
    """
    for share in SHARES:
        size = best.parameters * share
        tokens = law.tokens_for(best.loss, size)
        if tokens is None:
            return
        more, saved = 6 * size * tokens - best.flops, 2 * (best.parameters - size)
        repaid = max(0.0, more) / saved if saved else 0.0
        same = law.loss(size, best.flops / (6 * size))
        yield SmallerModel(share, size, tokens, best.loss, repaid, same)


def parse_flops(text: str) -> float:
    """Parse a number of training FLOPs such as "1e22".

    Raises ComputeBudgetError if it is no number between `SMALLEST` and `LARGEST`.
    """
    try:
        flops = float(text.replace("_", ""))
    except ValueError:
        flops = float("nan")
    if not SMALLEST <= flops <= LARGEST:
        raise ComputeBudgetError(
            f"--compute {text!r}: give training FLOPs between {SMALLEST:.0e} and {LARGEST:.0e}, "
            "such as 1e22; Chinchilla took 5.76e23"
        )
    return flops


def flops_of(gpu_days: float, device: Device, use: float = USE, dtype: str = "bf16") -> float:
    """Return the FLOPs that one GPU computes in `gpu_days` days.

    use: fraction of the peak that is reached. dtype: compute dtype of the peak.
    Raises ComputeBudgetError if the result is outside `SMALLEST` to `LARGEST`.
    """
    flops = gpu_days * 86_400 * device.flops(dtype) * use
    if not SMALLEST <= flops <= LARGEST:
        raise ComputeBudgetError(
            f"--gpu-days {gpu_days:g} on {device.title} are {flops:.3g} FLOPs: the laws speak of "
            f"{SMALLEST:.0e} to {LARGEST:.0e}"
        )
    return flops


def gpu_days(flops: float, device: Device, use: float = USE, dtype: str = "bf16") -> float:
    """Return the days that `flops` take on one GPU at the fraction `use` of its peak in `dtype`."""
    return flops / (86_400 * device.flops(dtype) * use)
