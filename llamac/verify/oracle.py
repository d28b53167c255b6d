"""Outputs of the reference for one random batch, and relative errors against them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llamac.ir.execute import loss_cotangent
from llamac.spec import Spec
from llamac.verify.reference import PADDING, Reference

TOLERANCE = 1e-9
"""Tolerance on relative errors in float64: rounding stays below 1e-12, bugs exceed 1e-6."""

NEGLIGIBLE = 1e-3
"""Smallest scale for a gradient's relative error, as a fraction of the largest gradient."""


@dataclass(frozen=True)
class ModelOutput:
    """Outputs of a model for one batch; None means not measured.

    loss, evaluated: loss, 0-d, or for dpo log-probabilities of sequences, [B]; `evaluated` is from
    a forward pass without a backward pass.
    gradients: by canonical name. logits: of the prompt, [B, P, V]. norm: gradient norm, 0-d.
    """

    loss: Tensor
    evaluated: Tensor
    gradients: Mapping[str, Tensor]
    logits: Tensor | None = None
    norm: Tensor | None = None


@dataclass(frozen=True)
class Oracle:
    """A batch, random weights, and the reference's outputs for them.

    weights: float64, by canonical name.
    tokens, labels: int64 [B, S]. Labels are the next tokens; each row ends in a different amount of
    padding, so that micro-batches and ranks have different numbers of targets.
    prompt: beginning of `tokens` with 0 for padding, int64 [B, P], with P < S where S > 1.
    outcome: the reference's outputs.
    """

    weights: Mapping[str, Tensor]
    tokens: Tensor
    labels: Tensor
    prompt: Tensor
    outcome: ModelOutput

    @property
    def sequences(self) -> Tensor:
        """The batch as a data loader returns it, int64 [B, S + 1]."""
        return torch.cat([self.tokens[:, :1], self.labels], 1)


def make_oracle(
    spec: Spec, seed: int = 0, gradient: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Oracle:
    """Draw a random batch and weights, and compute the reference's outputs eagerly in float64.

    spec: a small one, such as a twin. seed: seed of weights and batch.
    gradient: function (head's output, labels) → gradient of the output; None is `loss_cotangent`.
    """
    random = torch.Generator().manual_seed(seed)
    length = spec.batch.sequence_length
    eos = spec.document_end
    reference = Reference(spec.model, length, eos=eos, finetune=spec.finetune)
    weights = {
        name: _draw(name, weight.shape, random, spec.finetune.scale)
        for name, weight in reference.parameters_by_name().items()
    }
    reference.load(weights)
    shape = (spec.batch.micro_batch, length + 1)
    sequences = torch.randint(spec.model.vocab_size, shape, generator=random)
    if eos is not None:  # documents of about five tokens
        sequences[torch.rand(shape, generator=random) < 0.2] = eos
    for number, row in enumerate(sequences, 1):  # no padding in the last row
        row[1 + -(-length * number // len(sequences)) :] = PADDING
    lowest = PADDING if eos == PADDING else 0
    tokens, labels = sequences[:, :-1].clamp(min=lowest), sequences[:, 1:]
    prompt = tokens[:, : max(1, length * 3 // 4)].clamp(min=0)
    loss = reference(tokens, labels)
    output = loss.detach()
    loss.backward(gradient(output, labels) if gradient else loss_cotangent(output))
    gradients = {}
    for name, weight in reference.parameters_by_name().items():
        if not weight.requires_grad:
            continue
        assert weight.grad is not None, f"the reference has no gradient for {name}"
        gradients[name] = weight.grad
    with torch.no_grad():
        outcome = ModelOutput(loss.detach(), loss.detach(), gradients, reference.logits(prompt))
    return Oracle(weights, tokens, labels, prompt, outcome)


def _draw(name: str, shape: torch.Size, random: torch.Generator, scale: float) -> Tensor:
    """Return random weights without special values, so that a swapped or dropped one shows.

    Gains are not 1 and biases not 0; matrices preserve the scale of their input, as do adapters
    whose output is multiplied by `scale`.
    """
    values = torch.randn(shape, generator=random, dtype=torch.float64)
    if len(shape) > 1:
        return values / (math.sqrt(shape[-1]) * (scale if name.endswith("_lora_b") else 1.0))
    return 0.2 * values + (0 if name.endswith("_bias") else 1)


def errors(
    found: ModelOutput, expected: ModelOutput, negligible: float = NEGLIGIBLE
) -> dict[str, float]:
    """Return the relative error of each output in `expected`, by the output's name.

    Names are `loss`, `evaluated`, `logits`, `norm` and `d <parameter>`. An error is infinite for a
    missing output, an unexpected gradient, a wrong shape, and values that are not finite.

    negligible: smallest scale for a gradient's error, as a fraction of the largest gradient.
    """
    result = {
        key: relative_error(getattr(found, key), value)
        for key in ("loss", "evaluated", "logits", "norm")
        if (value := getattr(expected, key)) is not None
    }
    # Some gradients are zero in exact arithmetic: without RoPE, a bias of wk adds one constant to
    # all scores of a query, to which softmax is invariant. The computed gradient is rounding
    # error, and is judged by the scale of the other gradients rather than by its own. If adapters
    # alone are trained, all may be zero, as those of wq are if a query sees one key: then the loss
    # is the scale.
    scale = max(gradient.abs().max().item() for gradient in expected.gradients.values())
    scale = max(scale, NEGLIGIBLE * expected.loss.abs().max().item())
    for name, gradient in expected.gradients.items():
        result[gradient_key(name)] = relative_error(
            found.gradients.get(name), gradient, at_least=negligible * scale
        )
    unknown = found.gradients.keys() - expected.gradients.keys()
    return result | {gradient_key(name): math.inf for name in sorted(unknown)}


def gradient_key(name: str) -> str:
    """Return the key of a parameter's gradient in the result of `errors`. name: canonical name."""
    return f"d {name}"


def relative_error(found: Tensor | None, expected: Tensor, at_least: float = 0.0) -> float:
    """Return max |found - expected| / max(max |expected|, at_least).

    It is infinite if `found` is None, has another shape or is not finite, and 0 if all are zero.
    """
    if found is None or found.shape != expected.shape:
        return math.inf
    difference = (found - expected).abs().max().item()
    if not math.isfinite(difference):  # NaN compares false with every bound, so make it infinite
        return math.inf
    scale = max(expected.abs().max().item(), at_least)
    return difference / scale if scale else (math.inf if difference else 0.0)
