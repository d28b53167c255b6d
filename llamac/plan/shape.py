"""Shapes of LLaMA-style models: how many parameters one has, and which one has so many."""

from __future__ import annotations

from llamac.spec.model import Model


def matmul_weights(model: Model) -> int:
    """Parameters in matmuls: of all linears, the output projection's too. Biases are not."""
    return model.n_layers * layer_weights(model) + model.vocab_size * model.dim


def layer_weights(model: Model) -> int:
    """Parameters in the matmuls of one layer."""
    heads = 2 * model.n_heads + 2 * model.n_kv_heads
    matrices = 3 if model.activation == "swiglu" else 2
    return model.dim * (heads * model.head_dim + matrices * model.ffn_dim)
