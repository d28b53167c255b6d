"""Import GGUF files, as llama.cpp's converter writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from llamac.convert.errors import ConversionError
from llamac.convert.gguf.gguf_file import GGUFFile, read_gguf
from llamac.convert.gguf.gguf_tokenizer import KEY, gguf_prefix_ids, tokenizer_from
from llamac.convert.model_source import ForeignModel, Shapes
from llamac.convert.names import LAYER, gguf_name
from llamac.convert.tensors import LazyTensor, require_tensors
from llamac.convert.typed_table import Number, Size, Table, TokenId, validate_table
from llamac.spec.model import BIASED

LAYOUTS = {"llama": "interleaved", "qwen2": "half_split", "qwen3": "half_split"}
"""RoPE layout of each supported architecture (llama_model_rope_type in llama-model.cpp)."""

FREQUENCIES = "rope_freqs.weight"
"""Tensor with the divisors of the RoPE frequencies in Llama 3's scaling, [head_dim / 2]."""


UNSUPPORTED_KEYS = (
    "attention.clamp_kqv",
    "attention.logit_softcapping",
    "attention.scale",
    "attention.sliding_window",
    "embedding_scale",
    "expert_count",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "rope.scale_linear",
)
"""Keys, without the architecture's prefix, of features that llamac lacks.

The values 0 and 1 mean that the feature is unused.
"""


class GgufConfig(Table):
    """Hyperparameters in GGUF metadata, under keys without the architecture's prefix.

    key_length, value_length: dimensions of a head's keys and values. rotated: dimensions of a head
    that RoPE rotates. freq_base: RoPE's theta. scaling_type, scaling_factor: RoPE scaling.
    """

    embedding_length: Size
    block_count: Size
    feed_forward_length: Size
    head_count: Size = Field(alias="attention.head_count")
    head_count_kv: Size | None = Field(None, alias="attention.head_count_kv")
    key_length: Size | None = Field(None, alias="attention.key_length")
    value_length: Size | None = Field(None, alias="attention.value_length")
    norm_eps: Number = Field(alias="attention.layer_norm_rms_epsilon")
    freq_base: Number = Field(10_000.0, alias="rope.freq_base")
    rotated: Size | None = Field(None, alias="rope.dimension_count")
    scaling_type: str = Field("none", alias="rope.scaling.type")
    scaling_factor: Number = Field(1.0, alias="rope.scaling.factor")
    context_length: Size = 2048
    vocab_size: Size | None = None

    @property
    def head_dim(self) -> int:
        """Return key_length, or if it is absent the model's width divided by the heads."""
        return self.key_length or self.embedding_length // self.head_count


class GeneralMetadata(Table):
    """GGUF metadata that is independent of the architecture.

    chat_template: Jinja text. eos, eot, eom: ids that end a text, a turn and a message.
    """

    architecture: str = Field(alias="general.architecture")
    name: str | None = Field(None, alias="general.name")
    chat_template: str | None = Field(None, alias="tokenizer.chat_template")
    bos: TokenId | None = Field(None, alias=f"{KEY}bos_token_id")
    eos: TokenId | None = Field(None, alias=f"{KEY}eos_token_id")
    eot: TokenId | None = Field(None, alias=f"{KEY}eot_token_id")
    eom: TokenId | None = Field(None, alias=f"{KEY}eom_token_id")


def open_gguf(path: Path) -> ForeignModel:
    """Open a GGUF file, without reading its weights.

    Raises ConversionError if the file is damaged, or its architecture, a feature of the model or
    its tokenizer is not supported.
    """
    file, where = read_gguf(path), str(path)
    general = validate_table(GeneralMetadata, file.metadata, where)
    if (family := general.architecture) not in LAYOUTS:
        raise ConversionError(
            f"{where} has architecture {family!r:.60}, which cannot be imported; known: "
            f"{', '.join(LAYOUTS)}"
        )
    prefix = f"{family}."
    keys = {k.removeprefix(prefix): v for k, v in file.metadata.items() if k.startswith(prefix)}
    if unsupported := [key for key in UNSUPPORTED_KEYS if keys.get(key, 0) not in (0, 1)]:
        raise ConversionError(
            f"{where} has {prefix}{unsupported[0]} = {keys[unsupported[0]]!r:.60}, "
            "which llamac does not support"
        )
    config = validate_table(GgufConfig, keys, where)
    ends = (general.eos, general.eot, general.eom)
    tokenizer = tokenizer_from(file.metadata, where)
    return ForeignModel(
        family=family,
        title=general.name or path.stem,
        model=_model_of(file, family, config, where),
        tensors=lambda shapes: _tensors(file, shapes, where),
        files=(path,),
        context=config.context_length,
        tokenizer=tokenizer,
        bos=general.bos,
        begin=gguf_prefix_ids(file.metadata) if tokenizer else (),
        end=tuple(dict.fromkeys(token for token in ends if token is not None)),
        chat_template=general.chat_template,
    )


def _model_of(file: GGUFFile, family: str, config: GgufConfig, where: str) -> dict[str, Any]:
    if any(".ffn_gate_exps" in name or ".ffn_gate_inp" in name for name in file.tensors):
        raise ConversionError(f"{where} is a mixture of experts, which llamac does not support")
    table, head_dim = file.tensors.get("token_embd.weight"), config.head_dim
    if table is None or len(table.shape) != 2:
        raise ConversionError(f"{where} lacks token_embd.weight")
    for key, expected in (("rotated", head_dim), ("value_length", head_dim)):
        if (actual := getattr(config, key)) not in (None, expected):
            raise ConversionError(f"{where} has heads of {head_dim}, but {key} = {actual}")
    if config.vocab_size not in (None, table.shape[0]):
        raise ConversionError(
            f"{table.where} has {table.shape[0]:,} rows, and vocab_size is {config.vocab_size:,}"
        )
    theta = _shortest_decimal(config.freq_base)
    model = {
        "dim": config.embedding_length,
        "n_layers": config.block_count,
        "n_heads": config.head_count,
        "n_kv_heads": config.head_count_kv or config.head_count,
        "head_dim": head_dim,
        "vocab_size": table.shape[0],
        "ffn_dim": config.feed_forward_length,
        "norm_eps": _shortest_decimal(config.norm_eps),
        "rope_theta": theta,
        "rope_layout": LAYOUTS[family],
        "rope_scaling": _scaling_of(file, config, theta, where),
        "tied_embeddings": "output.weight" not in file.tensors,
        "bias": _bias_of(file.tensors),
        "qk_norm": "blk.0.attn_q_norm.weight" in file.tensors,
    }
    return {key: value for key, value in model.items() if value is not None}


def _shortest_decimal(value: float) -> float:
    """Return a float32 as its shortest decimal: 1e-05, not 9.999999747e-06."""
    return float(str(np.float32(value)))


def _bias_of(tensors: Mapping[str, LazyTensor]) -> bool | str:
    """Return the value of model.bias with the fewest biases that include the first block's."""
    biased = {
        key.rpartition(".")[2] for key in LAYER if gguf_name(f"layers.0.{key}_bias") in tensors
    }
    return next(
        value for value, linears in BIASED.items() if biased & {*BIASED[True]} <= {*linears}
    )


def _scaling_of(
    file: GGUFFile, config: GgufConfig, theta: float, where: str
) -> dict[str, Any] | None:
    kind, factor = config.scaling_type, config.scaling_factor
    if kind == "linear" and factor != 1.0:
        return {"kind": "linear", "factor": _shortest_decimal(factor)}
    if kind not in ("none", "linear"):
        raise ConversionError(f"{where}: RoPE scaling {kind!r:.60} is not supported")
    if (divisors := file.tensors.get(FREQUENCIES)) is None:
        return None
    if divisors.shape != (config.head_dim // 2,):
        raise ConversionError(
            f"{divisors.where} is {list(divisors.shape)}, not half of a head's {config.head_dim}"
        )
    return _llama3_scaling(divisors.read().double().numpy(), theta, config.head_dim, where)


def _llama3_scaling(
    divisors: np.ndarray, theta: float, head_dim: int, where: str
) -> dict[str, Any]:
    """Find the settings of Llama 3's scaling that give these divisors of the frequencies.

    Low and high frequency factors are 1 and 4 in every published model.
    """
    if not np.isfinite(divisors).all() or divisors.min() < 1:
        raise ConversionError(f"{where}: {FREQUENCIES} has divisors that are below 1 or not finite")
    factor = round(float(divisors.max()), 4)
    waves = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    candidates = {2**n for n in range(4, 20)}
    for divisor, wave in zip(divisors, waves, strict=True):
        if 1.0001 < divisor < factor * 0.9999:  # a blended frequency determines the context
            blend = (1 / divisor - 1 / factor) / (1 - 1 / factor)
            candidates.add(round(wave * (1 + 3 * blend)))
    for context in sorted(candidates, key=lambda n: (n != 8192, n)):
        blend = np.clip((context / waves - 1) / 3, 0, 1)
        if np.allclose(1 / (blend + (1 - blend) / factor), divisors, rtol=1e-5):
            return {
                "kind": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_context": context,
            }
    raise ConversionError(f"{where}: {FREQUENCIES} does not follow Llama 3's scaling")


def _tensors(file: GGUFFile, shapes: Shapes, where: str) -> dict[str, LazyTensor]:
    tensors = {name: tensor for name, tensor in file.tensors.items() if name != FREQUENCIES}
    require_tensors(tensors, {gguf_name(name): shape for name, shape in shapes.items()}, where)
    return {name: tensors[gguf_name(name)] for name in shapes}
