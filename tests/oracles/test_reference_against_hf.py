"""The yardstick is measured by strangers': transformers' models and torch's own encoder layer."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from llamac.verify.reference import Reference, parameter_shapes
from tests.oracles.hf import (
    InFloat64,
    build_hf,
    gradients_by_canonical_name,
    half_split_rows,
    interleaved_rows,
    load_canonical,
)

SEQUENCE = 24
LLAMA3 = SimpleNamespace(
    kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64
)


def section(**changes: Any) -> SimpleNamespace:
    """A small [model] section: LLaMA 1 unless changed."""
    model = {
        "dim": 48, "n_layers": 2, "n_heads": 6, "n_kv_heads": 6, "head_dim": 8, "ffn_dim": 88,
        "vocab_size": 101, "norm": "rmsnorm", "norm_position": "pre", "norm_eps": 1e-5,
        "activation": "swiglu", "position": "rope", "rope_theta": 10000.0,
        "rope_layout": "half_split", "rope_scaling": None, "tied_embeddings": False, "bias": False,
        "qk_norm": False, "sliding_window": None,
    }  # fmt: skip
    return SimpleNamespace(**(model | changes))


def random_weights(model: Any) -> dict[str, Tensor]:
    """Gains near one, the rest near zero: every parameter matters, and none is a special value."""
    torch.manual_seed(0)
    shapes = parameter_shapes(model, SEQUENCE)
    return {
        name: 0.2 * torch.randn(shape) + name.endswith("norm") for name, shape in shapes.items()
    }


def batch(model: Any) -> tuple[Tensor, Tensor]:
    text = torch.randint(model.vocab_size, (2, SEQUENCE + 1))
    return text[:, :-1], text[:, 1:]


def relative_error(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.slow  # imports transformers, two seconds
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_heads": 2},
        {"n_kv_heads": 1, "tied_embeddings": True},
        {"head_dim": 12},
        {"rope_layout": "interleaved"},
        {"rope_layout": "interleaved", "n_kv_heads": 3, "bias": True},
        {"rope_scaling": SimpleNamespace(kind="linear", factor=4.0)},
        {"rope_scaling": LLAMA3, "rope_theta": 500.0, "n_kv_heads": 2},
    ],
    ids=lambda changes: ",".join(changes) or "llama1",
)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_and_gradients_are_those_of_transformers(changes: dict, attention: str) -> None:
    model = section(**changes)
    weights = random_weights(model)
    tokens, labels = batch(model)
    reference = Reference(model, dtype=torch.float32).load(weights)
    hf = build_hf(model, attention=attention)
    load_canonical(hf, model, weights)

    hf_logits = hf(tokens).logits
    assert relative_error(reference.logits(tokens), hf_logits) < 1e-5

    reference(tokens, labels).backward()
    F.cross_entropy(hf_logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    wanted = gradients_by_canonical_name(hf, model)
    found = {name: p.grad for name, p in reference.parameters_by_name().items()}
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert gradient is not None
        assert relative_error(gradient, wanted[name]) < 1e-5, name


@pytest.mark.slow  # imports transformers, two seconds
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": "qkv", "n_kv_heads": 2},
        {"bias": "qkv", "rope_layout": "interleaved", "tied_embeddings": True},
        {"bias": "attention", "n_kv_heads": 2},
        {"bias": "attention", "qk_norm": True, "rope_layout": "interleaved"},
        {"bias": "feed_forward"},
        {"qk_norm": True, "n_kv_heads": 2, "head_dim": 12},
        {"qk_norm": True, "rope_layout": "interleaved", "tied_embeddings": True},
        {"sliding_window": 2},
        {"sliding_window": 5, "n_kv_heads": 2},
        {"sliding_window": SEQUENCE - 1, "rope_layout": "interleaved"},
        {"sliding_window": 2 * SEQUENCE},
        {"sliding_window": 7, "bias": "qkv"},
        {"sliding_window": 7, "qk_norm": True},
    ],
    ids=str,
)
def test_in_float64_every_digit_is_that_of_transformers(changes: dict) -> None:
    """LLaMA, Qwen2, Qwen3 and Mistral: loss and every gradient."""
    model = section(**changes)
    weights = {name: weight.double() for name, weight in random_weights(model).items()}
    tokens, labels = batch(model)
    reference = Reference(model).load(weights)
    loss = reference(tokens, labels)
    loss.backward()
    with InFloat64():
        hf = build_hf(model).double()
        load_canonical(hf, model, weights)
        logits = hf(tokens).logits
        wanted_loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        wanted_loss.backward()
    assert relative_error(loss, wanted_loss) < 1e-13
    wanted = gradients_by_canonical_name(hf, model)
    found = {name: p.grad for name, p in reference.parameters_by_name().items()}
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert gradient is not None
        assert relative_error(gradient, wanted[name]) < 1e-12, name


def test_llama3_scaling_keeps_blends_and_stretches_within_the_tested_head() -> None:
    """Guards the parametrisation above: with head_dim 8 all three bands of the formula are used."""
    wavelengths = 2 * math.pi * 500.0 ** (torch.arange(0, 8, 2) / 8)
    long, short = 64 / LLAMA3.low_freq_factor, 64 / LLAMA3.high_freq_factor
    assert wavelengths.min() < short
    assert ((wavelengths > short) & (wavelengths < long)).any()
    assert wavelengths.max() > long


def test_the_row_permutations_are_inverse_and_put_pairs_apart() -> None:
    rows = torch.arange(16)
    split = half_split_rows(rows, head_dim=8)
    assert split[:8].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert torch.equal(interleaved_rows(split, head_dim=8), rows)


@pytest.mark.slow  # imports transformers, two seconds
def test_hf_refuses_what_its_models_have_not() -> None:
    with pytest.raises(ValueError, match="activation"):
        build_hf(section(activation="gelu"))
    with pytest.raises(ValueError, match="bias"):
        build_hf(section(qk_norm=True, bias="qkv"))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("position", ["pre", "post"])
def test_the_other_blocks_are_those_of_torch_transformer(activation: str, position: str) -> None:
    """Layernorm, learned positions, biases, gelu or relu; a causal mask makes it a decoder."""
    model = section(
        norm="layernorm",
        norm_position=position,
        activation=activation,
        position="learned",
        bias=True,
    )
    weights = {name: weight.double() for name, weight in random_weights(model).items()}
    tokens, labels = batch(model)
    reference = Reference(model, SEQUENCE).load(weights)
    parameters = reference.parameters_by_name()

    x = F.embedding(tokens, parameters["tok_embeddings"]) + parameters["pos_embeddings"]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(SEQUENCE, dtype=torch.float64)
    for i in range(model.n_layers):
        block = torch.nn.TransformerEncoderLayer(
            model.dim, model.n_heads, model.ffn_dim, dropout=0.0, activation=activation,
            layer_norm_eps=model.norm_eps, batch_first=True, norm_first=position == "pre",
            dtype=torch.float64,
        )  # fmt: skip
        state = _torch_layer({k: p for k, p in parameters.items() if k.startswith(f"layers.{i}.")})
        x = torch.func.functional_call(block, state, (x, mask))
    x = F.layer_norm(x, (model.dim,), parameters["norm"], parameters["norm_bias"], model.norm_eps)
    logits = x @ parameters["output"].T

    assert relative_error(reference.logits(tokens), logits) < 1e-12
    names, values = zip(*parameters.items(), strict=True)
    wanted = torch.autograd.grad(
        F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"), values
    )
    found = torch.autograd.grad(reference(tokens, labels), values)
    for name, ours, theirs in zip(names, found, wanted, strict=True):
        if name.endswith("wk_bias"):  # softmax does not see it: both are rounding around zero
            assert ours.abs().max() < 1e-12
            continue
        assert relative_error(ours, theirs) < 1e-10, name


def _torch_layer(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    """Canonical parameters of one block under the names of nn.TransformerEncoderLayer."""
    w = {name.split(".", 2)[2]: parameter for name, parameter in layer.items()}
    return {
        "self_attn.in_proj_weight": torch.cat([w[f"attention.{n}"] for n in ("wq", "wk", "wv")]),
        "self_attn.in_proj_bias": torch.cat([w[f"attention.{n}_bias"] for n in ("wq", "wk", "wv")]),
        "self_attn.out_proj.weight": w["attention.wo"],
        "self_attn.out_proj.bias": w["attention.wo_bias"],
        "norm1.weight": w["attention_norm"],
        "norm1.bias": w["attention_norm_bias"],
        "norm2.weight": w["ffn_norm"],
        "norm2.bias": w["ffn_norm_bias"],
        "linear1.weight": w["feed_forward.w1"],
        "linear1.bias": w["feed_forward.w1_bias"],
        "linear2.weight": w["feed_forward.w2"],
        "linear2.bias": w["feed_forward.w2_bias"],
    }
