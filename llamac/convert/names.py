"""Tensor names in each format, and the row order of query and key weights for RoPE."""

from __future__ import annotations

from torch import Tensor

from llamac.convert.tensors import MEMORY, LazyTensor
from llamac.spec.model import Model

TOP = {  # canonical: Hugging Face's, GGUF's
    "tok_embeddings": ("model.embed_tokens", "token_embd"),
    "norm": ("model.norm", "output_norm"),
    "output": ("lm_head", "output"),
}
LAYER = {  # the same for tensors of a layer, without the layer's prefix
    "attention_norm": ("input_layernorm", "attn_norm"),
    "attention.wq": ("self_attn.q_proj", "attn_q"),
    "attention.wk": ("self_attn.k_proj", "attn_k"),
    "attention.wv": ("self_attn.v_proj", "attn_v"),
    "attention.wo": ("self_attn.o_proj", "attn_output"),
    "attention.q_norm": ("self_attn.q_norm", "attn_q_norm"),
    "attention.k_norm": ("self_attn.k_norm", "attn_k_norm"),
    "ffn_norm": ("post_attention_layernorm", "ffn_norm"),
    "feed_forward.w1": ("mlp.gate_proj", "ffn_gate"),
    "feed_forward.w2": ("mlp.down_proj", "ffn_down"),
    "feed_forward.w3": ("mlp.up_proj", "ffn_up"),
}
ROTATED = ("attention.wq", "attention.wk", "attention.q_norm", "attention.k_norm")
"""Tensors whose rows are ordered by the RoPE layout."""


def hf_name(canonical: str) -> str:
    """Return Hugging Face's name of a tensor: `tok_embeddings` → `model.embed_tokens.weight`."""
    return _name(canonical, 0, "model.layers.")


def gguf_name(canonical: str) -> str:
    """Return GGUF's name of a tensor: `layers.0.attention.wq_bias` → `blk.0.attn_q.bias`."""
    return _name(canonical, 1, "blk.")


def meta_name(canonical: str) -> str:
    """Return Meta's name of a tensor: `layers.0.attention.wq` → `layers.0.attention.wq.weight`."""
    return f"{canonical}.weight"


def _name(canonical: str, column: int, layers: str) -> str:
    stem = canonical.removesuffix("_bias")
    kind = "weight" if stem == canonical else "bias"
    if stem in TOP:
        return f"{TOP[stem][column]}.{kind}"
    _, number, rest = stem.split(".", 2)
    return f"{layers}{number}.{LAYER[rest][column]}.{kind}"


def is_rotated(canonical: str) -> bool:
    """Return whether the rows of a parameter are ordered by the RoPE layout."""
    return canonical.removesuffix("_bias").endswith(ROTATED)


def reorder_rows(canonical: str, tensor: LazyTensor, model: Model, layout: str) -> LazyTensor:
    """Return a tensor of `model` with its rows in another RoPE layout, reordered when it is read.

    canonical: the tensor's name. layout: "half_split" or "interleaved". Tensors outside `ROTATED`,
    and those of a model that has this layout, are unchanged.
    """
    if model.rope_layout == layout or not is_rotated(canonical):
        return tensor
    reorder = {"half_split": to_half_split, "interleaved": to_interleaved}[layout]
    return tensor.map(lambda rows: reorder(rows, model.head_dim))


def to_half_split(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder interleaved pairs (2i, 2i+1) of each head to halves (i, i + head_dim/2).

    rows: [heads * head_dim, ...], a q or k weight or bias, or the norm gains of one head.
    """
    pairs = rows.unflatten(0, (-1, head_dim // 2, 2))
    return MEMORY.copy(pairs.transpose(1, 2)).view(rows.shape)


def to_interleaved(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder the halves of each head to interleaved pairs: the inverse of `to_half_split`.

    rows: [heads * head_dim, ...], as there.
    """
    halves = rows.unflatten(0, (-1, 2, head_dim // 2))
    return MEMORY.copy(halves.transpose(1, 2)).view(rows.shape)
