"""Tables of compute-optimal models for a budget, and a chosen one as a spec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamac.look.text_table import TextTable
from llamac.plan.device.device import Device
from llamac.plan.render.prediction_tables import digits, percent, quantity
from llamac.plan.search.derived_spec import derived_toml, override_values
from llamac.plan.sizing.model_shape import ModelShape, llama_with
from llamac.plan.sizing.scaling_laws import (
    USE,
    ComputeBudgetError,
    Optimum,
    gpu_days,
    optima,
    smaller_models,
)
from llamac.spec import Spec, load_spec
from llamac.spec.parallel import ONE_RANK

RECIPE = "65b"  # source of a sized spec's data, optimizer and schedule
LLAMA = "llama"  # key of half the refitted optimum, trained to its loss
LARGEST_BATCH = 2**22  # tokens per step, as LLaMA's
STEPS = 20_000  # approximate minimum number of steps of a run
WARMUP = 2000, 50  # at most 2000 steps of warm-up (LLaMA's), and 1 / 50 of all steps


@dataclass(frozen=True)
class ComputeBudget:
    """Training FLOPs, and the device for which they are converted to days.

    use: fraction of the device's peak that training reaches.
    """

    flops: float
    device: Device
    use: float = USE

    def days(self, flops: float) -> float:
        """Return the days that `flops` take on one of the budget's devices, computing in bf16."""
        return gpu_days(flops, self.device, self.use)


def budget_heading(budget: ComputeBudget) -> str:
    """Return the budget in FLOPs and in days of its device, as a line of text."""
    return (
        f"{budget.flops:.3g} training FLOPs: {digits(budget.days(budget.flops))} days of one "
        f"{budget.device.title} at {percent(budget.use)} of its peak"
    )


def budget_tables(budget: ComputeBudget) -> Iterator[TextTable]:
    """Yield a table of each law's optimum, and one of smaller models with the same loss."""
    optima_of_laws = optima(budget.flops)
    rows = [
        (
            model.key,
            model.name,
            quantity(model.parameters),
            quantity(model.tokens),
            digits(model.tokens / model.parameters),
            f"{model.loss:.3f}",
            digits(2 * model.parameters / 1e9),
        )
        for model in optima_of_laws
    ]
    head = ("", "law", "parameters", "tokens", "D/N", "loss", "inference GFLOPs/token")
    note = (
        "D/N: tokens per parameter. loss: nats per token, by the refitted law (Besiroglu et al. "
        "2024) for every row. Kaplan's parameters exclude embeddings; his law is for batches below "
        "the critical size."
    )
    yield TextTable("model with the lowest loss for this budget", head, rows, "<<>>>>>", note=note)
    best = _refitted_optimum(optima_of_laws)
    rows = [
        (
            percent(model.share),
            quantity(model.parameters),
            quantity(model.tokens),
            digits(model.tokens / model.parameters),
            f"{model.flops:.2e}",
            digits(budget.days(model.flops)),
            digits(model.inference / 1e9),
            quantity(model.repaid) if model.repaid else "",
            f"{model.same:.3f}",
        )
        for model in smaller_models(best)
    ]
    head = ("size", "parameters", "tokens", "D/N", "FLOPs", "GPU-days", "GFLOPs per token")
    head = (*head, "saves after", "loss at budget")
    note = (
        "LLaMA's argument (Touvron et al. 2023): a smaller model costs more to train to the same "
        "loss, and less per token of inference. saves after: inference tokens after which its "
        "total cost is lower. GFLOPs per token: those of inference."
    )
    title = f"smaller models with the same loss of {best.loss:.3f}"
    yield TextTable(title, head, rows, ">" * len(head), note=note)


def budget_json(budget: ComputeBudget) -> dict[str, Any]:
    """Return the JSON values of `plan --compute --json`: budget, laws' optima, smaller models."""
    optima_of_laws = optima(budget.flops)
    return {
        "flops": budget.flops,
        "device": budget.device.name,
        "use": budget.use,
        "gpu_days": budget.days(budget.flops),
        "optima": [vars(model) | {"flops": model.flops} for model in optima_of_laws],
        "smaller": [
            vars(model) | {"flops": model.flops}
            for model in smaller_models(_refitted_optimum(optima_of_laws))
        ],
    }


def _refitted_optimum(optima_of_laws: Sequence[Optimum]) -> Optimum:
    return next(optimum for optimum in optima_of_laws if optimum.key == "refitted")


def choices() -> tuple[str, ...]:
    """Return the keys that `find_optimum` accepts: those of the laws, and "llama"."""
    return (*(optimum.key for optimum in optima(1e20)), LLAMA)


def find_optimum(budget: ComputeBudget, key: str) -> Optimum:
    """Return the optimum of a budget by the law `key`, one of `choices`.

    "llama" is a model of half the refitted law's optimum, trained to the same loss.
    """
    optima_of_laws = optima(budget.flops)
    if key != LLAMA:
        return next(optimum for optimum in optima_of_laws if optimum.key == key)
    half = next(
        optimum
        for optimum in smaller_models(_refitted_optimum(optima_of_laws))
        if optimum.share == 0.5
    )
    return Optimum(LLAMA, "LLaMA's argument", half.parameters, half.tokens, half.loss)


def sized_changes(optimum: Optimum, recipe: Spec) -> tuple[ModelShape, dict[str, Any]]:
    """Return (shape, changes of `recipe`) for a LLaMA of about the optimum's size on one rank.

    Changes are values by dotted key; they set the batch and the learning rate too.
    Raises ComputeBudgetError if the optimum is smaller than the smallest LLaMA.
    """
    try:
        shape = llama_with(optimum.parameters, recipe.model.vocab_size)
    except ValueError as error:
        raise ComputeBudgetError(f"{error}; give more compute") from error
    length, tokens = recipe.batch.sequence_length, round(optimum.tokens)
    power = 2 ** max(0, (tokens // STEPS).bit_length() - 1)
    batch = max(length, min(LARGEST_BATCH, power) // length * length)
    max_warmup, fraction = WARMUP
    return shape, {
        "model.dim": shape.dim,
        "model.n_layers": shape.n_layers,
        "model.n_heads": shape.n_heads,
        "batch.tokens": batch,
        "batch.micro_batch": 1,
        "optimizer.lr": 3e-4 if shape.parameters < 20e9 else 1.5e-4,
        "schedule.tokens": tokens,
        "schedule.warmup_steps": min(max_warmup, -(-tokens // batch) // fraction),
        **ONE_RANK,
    }


def sized_toml(
    optimum: Optimum, budget: ComputeBudget, overrides: Sequence[str], out: Path
) -> tuple[str, ModelShape]:
    """Return (TOML of a spec for an optimum, the model's shape).

    overrides: values of `--set`. out: file that the spec will be written to.
    Raises ComputeBudgetError if no LLaMA is so small, SpecError if an override is invalid.
    """
    recipe = load_spec(RECIPE, overrides)
    shape, changes = sized_changes(optimum, recipe)
    spec = recipe.replace(changes)
    header = [
        f"{shape.parameters:,} parameters on {quantity(optimum.tokens)} tokens. "
        f"{optimum.name} wants",
        f"{quantity(optimum.parameters)} for {budget.flops:.3g} training FLOPs. Data, optimizer "
        "and",
        "schedule are those of LLaMA 65B. To lay it out on GPUs:",
        f"llamac plan {out} --search --gpus N --device NAME -o best.toml",
    ]
    notes = {
        "model": "heads of 128, width to depth as LLaMA has it",
        "batch": f"{spec.total_steps:,} steps",
        "optimizer": "LLaMA's rate for this size",
        "schedule": f"{digits(optimum.tokens / shape.parameters)} tokens a parameter",
        "parallel": "one rank, until it is laid out",
    }
    name = f"sized-{quantity(shape.parameters).lower()}"
    changes = override_values(recipe, overrides) | changes
    return derived_toml(RECIPE, out, name, changes, header, notes), shape
