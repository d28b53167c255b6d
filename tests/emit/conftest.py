"""A small spec, and what is emitted for it, imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from llamac.emit.build import files_of
from llamac.emit.importing import import_emitted
from llamac.passes.pass_list import stages
from llamac.runtime.parameters import canonical_views
from llamac.spec import Spec, load_spec

SMALL = (
    "model.dim=48",
    "model.n_layers=2",
    "model.n_heads=6",
    "model.head_dim=8",
    "model.ffn_dim=88",
    "model.vocab_size=331",
    "batch.sequence_length=24",
    "batch.sequences=2",
    "batch.micro_batch=2",
    "kernels.loss_chunk=13",
    "kernels.compile=never",
)
LLAMA3 = (
    'model.rope_scaling={kind="llama3", factor=8.0, original_context=64}',
    "model.rope_theta=500.0",
)


def small(*overrides: str, base: str = "tiny") -> Spec:
    """A shipped spec at sizes a test can run, fp32, LLaMA 1 unless changed."""
    return load_spec(base, [*SMALL, *overrides])


def files(spec: Spec) -> dict[str, str]:
    return files_of(spec, stages(spec))


@pytest.fixture
def emitted() -> Iterator[Callable[[Spec], Any]]:
    """`emitted(spec)`: the module model.py, until the test ends."""
    with ExitStack() as stack:
        yield lambda spec: stack.enter_context(import_emitted(files(spec)))


def random_weights(spec: Spec, module: Any) -> dict[str, Tensor]:
    """Canonical float32 weights: gains near one, biases and matrices near zero, none special."""
    random = torch.Generator().manual_seed(0)
    return {
        name: 0.2 * torch.randn(view.shape, generator=random) + name.endswith("norm")
        for held, parameter in module.Model().named_parameters()
        for name, view in canonical_views(held, parameter, module.PACKED)
    }


@torch.no_grad()
def load(model: Any, packed: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    for held, parameter in model.named_parameters():
        for name, view in canonical_views(held, parameter, packed):
            view.copy_(weights[name])


def gradients(model: Any, packed: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: view
        for held, parameter in model.named_parameters()
        for name, view in canonical_views(held, parameter.grad, packed)
    }


def batch(spec: Spec) -> tuple[Tensor, Tensor]:
    """tokens, labels: int64 [B, S]."""
    random = torch.Generator().manual_seed(1)
    shape = (spec.batch.micro_batch, spec.batch.sequence_length + 1)
    text = torch.randint(spec.model.vocab_size, shape, generator=random)
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


def relative_error(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).abs().max() / wanted.abs().max())
