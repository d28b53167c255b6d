"""Tables of optimal models for a compute budget, and the chosen model as a spec."""

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
    smaller,
)
from llamac.spec import Spec, load_spec
from llamac.spec.parallel import ONE_RANK

RECIPE = "65b"  # source of a sized spec's data, optimizer and schedule
LLAMA = "llama"  # the choice of half the refitted optimum, with its loss
LARGEST_BATCH = 2**22  # tokens a step: LLaMA's
STEPS = 20_000  # about as many as a run should have at least
WARMUP = 2000, 50  # steps of warm-up at most (LLaMA's), and the part of all that they are at most


@dataclass(frozen=True)
class ComputeBudget:
    """Training FLOPs, and the device in whose days they are reported."""

    flops: float
    device: Device
    use: float = USE

    def days(self, flops: float) -> float:
        return gpu_days(flops, self.device, self.use)


def budget_heading(budget: ComputeBudget) -> str:
    return (
        f"{budget.flops:.3g} training FLOPs: {digits(budget.days(budget.flops))} days of one "
        f"{budget.device.title} at {percent(budget.use)} of its peak"
    )


def budget_tables(budget: ComputeBudget) -> Iterator[TextTable]:
    found = optima(budget.flops)
    rows = [
        (
            one.key,
            one.name,
            quantity(one.parameters),
            quantity(one.tokens),
            digits(one.tokens / one.parameters),
            f"{one.loss:.3f}",
            digits(2 * one.parameters / 1e9),
        )
        for one in found
    ]
    head = ("", "law", "parameters", "tokens", "D/N", "loss", "inference GFLOPs/token")
    note = (
        "D/N: tokens per parameter. loss: nats per token, by the refitted law (Besiroglu et al. "
        "2024) for every row. Kaplan's parameters exclude embeddings; his law is for batches below "
        "the critical size."
    )
    yield TextTable("model with the lowest loss for this budget", head, rows, "<<>>>>>", note=note)
    best = _refitted(found)
    rows = [
        (
            percent(one.share),
            quantity(one.parameters),
            quantity(one.tokens),
            digits(one.tokens / one.parameters),
            f"{one.flops:.2e}",
            digits(budget.days(one.flops)),
            digits(one.inference / 1e9),
            quantity(one.repaid) if one.repaid else "",
            f"{one.same:.3f}",
        )
        for one in smaller(best)
    ]
    head = ("size", "parameters", "tokens", "D/N", "FLOPs", "GPU-days", "inference GFLOPs/token")
    head = (*head, "cheaper after", "loss at this budget")
    note = (
        "LLaMA's argument (Touvron et al. 2023): a smaller model costs more to train to the same "
        "loss, and less per token of inference. cheaper after: inference tokens after which its "
        "total cost is lower."
    )
    title = f"smaller models with the same loss of {best.loss:.3f}"
    yield TextTable(title, head, rows, ">" * len(head), note=note)


def budget_json(budget: ComputeBudget) -> dict[str, Any]:
    """Return the JSON values of `plan --compute --json`: each law's optimum, smaller models."""
    found = optima(budget.flops)
    return {
        "flops": budget.flops,
        "device": budget.device.name,
        "use": budget.use,
        "gpu_days": budget.days(budget.flops),
        "optima": [vars(one) | {"flops": one.flops} for one in found],
        "smaller": [vars(one) | {"flops": one.flops} for one in smaller(_refitted(found))],
    }


def _refitted(found: Sequence[Optimum]) -> Optimum:
    return next(one for one in found if one.key == "refitted")


def choices() -> tuple[str, ...]:
    return (*(one.key for one in optima(1e20)), LLAMA)


def optimum_named(budget: ComputeBudget, key: str) -> Optimum:
    """Return a law's optimum; `llama`: half the refitted optimum, with tokens for its loss."""
    found = optima(budget.flops)
    if key != LLAMA:
        return next(one for one in found if one.key == key)
    half = next(one for one in smaller(_refitted(found)) if one.share == 0.5)
    return Optimum(LLAMA, "LLaMA's argument", half.parameters, half.tokens, half.loss)


def sized_changes(one: Optimum, recipe: Spec) -> tuple[ModelShape, dict[str, Any]]:
    """Return a LLaMA of about this size on one rank, as changes to a recipe.

    Raises ComputeBudgetError.
    """
    try:
        shape = llama_with(one.parameters, recipe.model.vocab_size)
    except ValueError as error:
        raise ComputeBudgetError(f"{error}; give more compute") from error
    length, tokens = recipe.batch.sequence_length, round(one.tokens)
    power = 2 ** max(0, (tokens // STEPS).bit_length() - 1)
    batch = max(length, min(LARGEST_BATCH, power) // length * length)
    most, part = WARMUP
    return shape, {
        "model.dim": shape.dim,
        "model.n_layers": shape.n_layers,
        "model.n_heads": shape.n_heads,
        "batch.tokens": batch,
        "batch.micro_batch": 1,
        "optimizer.lr": 3e-4 if shape.parameters < 20e9 else 1.5e-4,
        "schedule.tokens": tokens,
        "schedule.warmup_steps": min(most, -(-tokens // batch) // part),
        **ONE_RANK,
    }


def sized_toml(
    one: Optimum, budget: ComputeBudget, overrides: Sequence[str], out: Path
) -> tuple[str, ModelShape]:
    """Return the spec of a size for the file `out`, commented with its reasons, and its shape.

    Raises ComputeBudgetError, SpecError.
    """
    recipe = load_spec(RECIPE, overrides)
    shape, changes = sized_changes(one, recipe)
    spec = recipe.replace(changes)
    above = [
        f"{shape.parameters:,} parameters on {quantity(one.tokens)} tokens. {one.name} wants",
        f"{quantity(one.parameters)} for {budget.flops:.3g} training FLOPs. Data, optimizer and",
        "schedule are those of LLaMA 65B. To lay it out on GPUs:",
        f"llamac plan {out} --search --gpus N --device NAME -o best.toml",
    ]
    notes = {
        "model": "heads of 128, width to depth as LLaMA has it",
        "batch": f"{spec.total_steps:,} steps",
        "optimizer": "LLaMA's rate for this size",
        "schedule": f"{digits(one.tokens / shape.parameters)} tokens a parameter",
        "parallel": "one rank, until it is laid out",
    }
    name = f"sized-{quantity(shape.parameters).lower()}"
    changes = override_values(recipe, overrides) | changes
    return derived_toml(RECIPE, out, name, changes, above, notes), shape
