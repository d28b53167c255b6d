"""Small specs, and what a compiled Program is compared with: the plain eager reference, in float64.

Weights are drawn wide enough that every path matters to the loss; nothing depends on their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llamac.ir.execute import loss_and_gradients, loss_cotangent
from llamac.ir.program import Program
from llamac.passes.differentiate import Differentiate
from llamac.resources import directory
from llamac.runtime.kernels.rope import rope_tables
from llamac.spec import Spec, load_spec
from llamac.verify.reference import Reference

SPECS = directory("specs")
SHIPPED = tuple(
    sorted(path.stem for path in SPECS.glob("*.toml") if "[init]" not in path.read_text())
)
"""Stems of the specs that train from random weights."""

SMALL = (
    "model.n_layers=2",
    "model.dim=32",
    "model.n_heads=4",
    "model.multiple_of=16",
    "model.vocab_size=320",
    "batch.sequence_length=32",
    "batch.micro_batch=2",
    "batch.sequences=4",
    "schedule.steps=100",
    "schedule.warmup_steps=1",
)
GROUPED = ("model.n_kv_heads=2", "model.ffn_dim=80")  # in place of 8 heads of 64, and 28 672


def shipped(name: str, *overrides: str) -> Spec:
    """A shipped spec, on one rank unless `overrides` say otherwise."""
    alone = ("parallel.tensor=1", "parallel.data_shard=1")
    return load_spec(SPECS / f"{name}.toml", (*alone, *overrides))


def shrunk(name: str, *overrides: str) -> Spec:
    """A shipped spec with its features kept and its sizes small enough to run."""
    grouped = GROUPED if name == "llama2-70b" else ()
    return shipped(name, *SMALL, *grouped, *overrides)


@dataclass(frozen=True)
class Oracle:
    """A batch, random weights, and what the reference makes of them. All in float64."""

    weights: dict[str, Tensor]
    tokens: Tensor
    labels: Tensor
    logits: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


def oracle(spec: Spec, batch: int = 2, positions: int = 16) -> Oracle:
    torch.manual_seed(0)
    eos = spec.document_end
    reference = Reference(spec.model, spec.batch.sequence_length, eos=eos, finetune=spec.finetune)
    weights = {
        name: torch.randn(weight.shape, dtype=torch.float64) * (0.2 if weight.ndim > 1 else 0.1)
        + (1.0 if name.endswith("norm") else 0.0)
        for name, weight in reference.parameters_by_name().items()
    }
    reference.load(weights)
    tokens, labels = torch.randint(spec.model.vocab_size, (2, batch, positions))
    if eos is not None:
        tokens[torch.rand(tokens.shape) < 0.2] = eos
    loss = reference(tokens, labels)
    loss.backward(loss_cotangent(loss.detach()))
    gradients = {}
    for name, weight in reference.parameters_by_name().items():
        if not weight.requires_grad:
            continue
        assert weight.grad is not None
        gradients[name] = weight.grad
    with torch.no_grad():
        logits = reference.logits(tokens)
    return Oracle(weights, tokens, labels, logits, loss.detach(), gradients)


def tables(program: Program, positions: int) -> dict[str, Tensor]:
    """The program's constant tables in float64, for this many positions."""
    if not program.buffers:
        return {}
    arguments = dict(program.buffers["rope_cos"].arguments) | {"positions": positions}
    cos, sin = rope_tables(**arguments, dtype=torch.float64)  # type: ignore[arg-type]
    return {"rope_cos": cos, "rope_sin": sin}


def differentiated(program: Program) -> Program:
    """The program itself, or its derivative if the pass has not run yet."""
    return program if program.regions["block"].backward else Differentiate().apply(program)


def assert_close(found: Tensor, wanted: Tensor, what: str, floor: float = 0.0) -> None:
    """Equal up to rounding in float64, relative to the largest element, or to `floor` if larger."""
    assert found.shape == wanted.shape, f"{what}: {found.shape}, not {wanted.shape}"
    error = (found - wanted).abs().max() / max(wanted.abs().max().item(), floor)
    assert error < 1e-11, f"{what} is off by {error:.1e}"


def assert_gradients(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    # Without rope the gradient of wk's bias is zero: softmax does not see what all keys share.
    floor = 1e-3 * max(gradient.abs().max().item() for gradient in wanted.values())
    for name, gradient in found.items():
        assert_close(gradient, wanted[name], f"the gradient of {name}", floor)


@torch.no_grad()
def assert_matches(program: Program, oracle: Oracle) -> None:
    """The program's loss, and the gradient of each canonical parameter, are the reference's."""
    program = differentiated(program)
    buffers = tables(program, oracle.tokens.shape[1])
    loss, gradients = loss_and_gradients(
        program, oracle.weights, buffers, oracle.tokens, oracle.labels
    )
    assert_close(loss, oracle.loss, "the loss")
    assert_gradients(gradients, oracle.gradients)
