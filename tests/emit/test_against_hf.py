"""The emitted model.py is transformers' model: same weights, same logits, same gradients, fp32."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.emit.conftest import (
    LLAMA3,
    batch,
    gradients,
    load,
    random_weights,
    relative_error,
    small,
)
from tests.oracles.hf import build_hf, gradients_by_canonical_name, load_canonical

HALF = "model.rope_layout=half_split"
GROUPED = "model.n_kv_heads=2"
TIED = "model.tied_embeddings=true"
NONE, FULL = "recompute.policy=none", "recompute.policy=full"


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (NONE,),
        (FULL,),
        (HALF,),
        (GROUPED,),
        (GROUPED, HALF, FULL),
        (TIED,),
        (TIED, "model.n_kv_heads=1", HALF, NONE),
        (*LLAMA3, GROUPED),
        (*LLAMA3, HALF),
        ("model.bias=true", GROUPED),
        ("model.bias=qkv", GROUPED),
        ("model.bias=qkv", HALF, TIED),
        ("model.qk_norm=true", GROUPED, FULL),
        ("model.qk_norm=true", HALF, "model.head_dim=12"),
        ("model.sliding_window=5", GROUPED),
        ("model.sliding_window=9", "model.bias=qkv", HALF, "kernels.attention=math"),
        ("model.sliding_window=9", "model.qk_norm=true", NONE),
        ("model.head_dim=12",),
        ("kernels.attention=math", GROUPED, FULL),
        ('model.rope_scaling={kind="linear", factor=4.0}',),
    ],
    ids=lambda overrides: ",".join(overrides) or "llama1",
)
def test_logits_and_every_gradient_are_those_of_transformers(overrides, emitted) -> None:
    spec = small(*overrides)
    module = emitted(spec)
    model, hf = module.Model(), build_hf(spec.model)
    assert next(model.parameters()).dtype == torch.float32
    weights = random_weights(spec, module)
    load(model, module.PACKED, weights)
    load_canonical(hf, spec.model, weights)
    tokens, labels = batch(spec)

    hf_logits = hf(tokens).logits
    hf_loss = F.cross_entropy(hf_logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert relative_error(model.logits(tokens), hf_logits) < 1e-5
    loss = model(tokens, labels)
    assert relative_error(loss, hf_loss) < 1e-5
    with torch.no_grad():
        assert relative_error(model(tokens, labels), hf_loss) < 1e-5

    loss.backward()
    hf_loss.backward()
    found, wanted = gradients(model, module.PACKED), gradients_by_canonical_name(hf, spec.model)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert relative_error(gradient, wanted[name]) < 1e-5, name
