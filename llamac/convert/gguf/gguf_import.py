"""Import GGUF files, as llama.cpp's converter writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llamac.convert.errors import ConversionError
from llamac.convert.gguf.gguf_file import GGUFFile, read_gguf
from llamac.convert.gguf.gguf_tokenizer import KEY, begin_of, tokenizer_from
from llamac.convert.model_source import ForeignModel, Shapes
from llamac.convert.names import gguf_name
from llamac.convert.tensors import Stored, require_tensors

LAYOUTS = {"llama": "interleaved", "qwen2": "half_split", "qwen3": "half_split"}
"""Architectures, and how llama.cpp's RoPE pairs coordinates there (llama-model.cpp)."""

FREQUENCIES = "rope_freqs.weight"


def open_gguf(path: Path) -> ForeignModel:
    """Describe the model in a GGUF file. Raises ConversionError."""
    file, where = read_gguf(path), str(path)
    family = file.metadata.get("general.architecture")
    if family not in LAYOUTS:
        raise ConversionError(
            f"{where} is of the architecture {family!r}, which cannot be imported: known are "
            f"{', '.join(LAYOUTS)}"
        )
    metadata = file.metadata
    model = _model_of(file, family, where)
    ends = [metadata.get(f"{KEY}{name}_token_id") for name in ("eos", "eot", "eom")]
    template = metadata.get("tokenizer.chat_template")
    title = metadata.get("general.name")
    return ForeignModel(
        family=family,
        title=title if isinstance(title, str) and title else path.stem,
        model=model,
        tensors=lambda shapes: _tensors(file, shapes, where),
        files=(path,),
        context=metadata.get(f"{family}.context_length") or 2048,
        tokenizer=tokenizer_from(metadata, where),
        begin=begin_of(metadata),
        end=tuple(dict.fromkeys(one for one in ends if type(one) is int)),
        chat_template=template if isinstance(template, str) else None,
    )


def _model_of(file: GGUFFile, family: str, where: str) -> dict[str, Any]:
    def get(key: str, otherwise: Any = None) -> Any:
        value = file.metadata.get(f"{family}.{key}", otherwise)
        if value is None:
            raise ConversionError(f"{where} lacks {family}.{key}")
        return value

    if any(".ffn_gate_exps" in name or ".ffn_gate_inp" in name for name in file.tensors):
        raise ConversionError(f"{where} has a mixture of experts, which llamac's models have not")
    table, heads, dim = file.tensors.get("token_embd.weight"), get("attention.head_count"), 0
    if table is None or len(table.shape) != 2:
        raise ConversionError(f"{where} lacks token_embd.weight")
    dim = get("embedding_length")
    if not all(type(n) is int and n > 0 for n in (heads, dim)):
        raise ConversionError(f"{where} has {heads!r} heads in a width of {dim!r}")
    head_dim = get("attention.key_length", dim // heads)
    if get("rope.dimension_count", head_dim) != head_dim:
        raise ConversionError(f"{where} turns part of each head only (rope.dimension_count)")
    theta = _short(get("rope.freq_base", 10_000.0))
    model = {
        "dim": dim,
        "n_layers": get("block_count"),
        "n_heads": heads,
        "n_kv_heads": get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "vocab_size": table.shape[0],
        "ffn_dim": get("feed_forward_length"),
        "norm_eps": _short(get("attention.layer_norm_rms_epsilon")),
        "rope_theta": theta,
        "rope_layout": LAYOUTS[family],
        "rope_scaling": _scaling_of(file, family, theta, head_dim, where),
        "tied_embeddings": "output.weight" not in file.tensors,
        "bias": _bias_of(file.tensors),
        "qk_norm": "blk.0.attn_q_norm.weight" in file.tensors,
    }
    return {key: value for key, value in model.items() if value is not None}


def _short(value: float) -> float:
    """Return the float of the fewest digits that is this float32: 1e-05, not 9.999999747e-06."""
    return float(str(np.float32(value)))


def _bias_of(tensors: Mapping[str, Stored]) -> bool | str:
    if "blk.0.attn_q.bias" not in tensors:
        return False
    return True if "blk.0.ffn_down.bias" in tensors else "qkv"


def _scaling_of(
    file: GGUFFile, family: str, theta: float, head_dim: int, where: str
) -> dict[str, Any] | None:
    kind = file.metadata.get(f"{family}.rope.scaling.type", "none")
    factor = file.metadata.get(f"{family}.rope.scaling.factor", 1.0)
    if kind == "linear" and factor != 1.0:
        return {"kind": "linear", "factor": _short(factor)}
    if kind not in ("none", "linear"):
        raise ConversionError(f"{where}: RoPE scaling {kind!r} is not known here")
    if FREQUENCIES not in file.tensors:
        return None
    return _llama3_scaling(
        file.tensors[FREQUENCIES].read().double().numpy(), theta, head_dim, where
    )


def _llama3_scaling(
    divisors: np.ndarray, theta: float, head_dim: int, where: str
) -> dict[str, Any]:
    """Find the settings of Llama 3's scaling that give these divisors of the frequencies.

    Low and high frequency factors are 1 and 4 in every published model.
    """
    factor = round(float(divisors.max()), 4)
    waves = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    candidates = {2**n for n in range(4, 20)}
    for divisor, wave in zip(divisors, waves, strict=True):
        if 1.0001 < divisor < factor * 0.9999:  # between: its blend tells the context
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
    raise ConversionError(f"{where}: {FREQUENCIES} is not of Llama 3's scaling")


def _tensors(file: GGUFFile, shapes: Shapes, where: str) -> dict[str, Stored]:
    found = {name: tensor for name, tensor in file.tensors.items() if name != FREQUENCIES}
    require_tensors(found, {gguf_name(name): shape for name, shape in shapes.items()}, where)
    return {name: found[gguf_name(name)] for name in shapes}
