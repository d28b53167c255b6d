"""Export to GGUF, llama.cpp's format, with the gguf package's writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llamac.convert.errors import ConversionError
from llamac.convert.gguf.gguf_import import FREQUENCIES, LAYOUTS
from llamac.convert.gguf.gguf_tokenizer import KEY, metadata_of
from llamac.convert.hf.config_export import family_for
from llamac.convert.names import gguf_name, reorder_rows
from llamac.convert.tensors import LazyTensor, read_ahead, write_behind
from llamac.convert.trained_model import TrainedModel
from llamac.runtime.kernels.rope import scaled_frequencies

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0", "float64": "F32"}
"""GGUF type of a matrix, by the name of its dtype; a checkpoint's float64 becomes F32."""
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}  # llama.cpp's LLAMA_FTYPE
Q8_BLOCK = 32  # values of a row that share one scale


def write_gguf(trained: TrainedModel, path: Path, dtype: str | None) -> None:
    """Write a model's metadata, tokenizer and weights to one GGUF file, `path`.

    dtype: type of the matrices: float32, float16, bfloat16 or q8_0; None keeps the checkpoint's,
    except that float64 becomes float32. Vectors are float32, as llama.cpp requires. With q8_0,
    matrices whose row length is not a multiple of 32 are float16.
    Raises ConversionError for another `dtype`, and for a model that llama.cpp cannot run.
    """
    if dtype is not None and dtype not in TYPES:
        raise ConversionError(f"unknown --dtype {dtype}; known: {', '.join([*TYPES][:4])}")
    model = trained.spec.model
    family = _architecture(trained)
    tensors = {
        gguf_name(name): reorder_rows(name, tensor, model, LAYOUTS[family])
        for name, tensor in trained.tensors.items()
    }
    metadata = _metadata(trained, family)
    if model.rope_scaling is not None and model.rope_scaling.kind == "llama3":
        unscaled = scaled_frequencies(model.head_dim, model.rope_theta, None)
        scaling = model.rope_scaling.model_dump()
        divisors = unscaled / scaled_frequencies(model.head_dim, model.rope_theta, scaling)
        shape = (model.head_dim // 2,)
        tensors[FREQUENCIES] = LazyTensor(torch.float32, shape, FREQUENCIES, divisors.float)
    types = {name: _type_of(tensor, dtype) for name, tensor in tensors.items()}
    matrices = [types[name] for name, tensor in tensors.items() if len(tensor.shape) > 1]
    metadata["general.file_type"] = FILE_TYPES[matrices[-1]]
    _write(path, family, metadata, tensors, types)


def _architecture(trained: TrainedModel) -> str:
    family, window = family_for(trained.spec.model), trained.spec.model.sliding_window
    if window is not None and window < trained.opened.context:
        raise ConversionError(
            "llama.cpp would attend to all positions, but model.sliding_window = "
            f"{window} is shorter than the context: export to hf, or train on sequences of that "
            "length"
        )
    if family == "qwen3" and trained.spec.model.bias:
        raise ConversionError("llama.cpp's qwen3 has no biases: model.bias must be false there")
    return "llama" if family == "mistral" else family


def _type_of(tensor: LazyTensor, dtype: str | None) -> str:
    if len(tensor.shape) == 1:
        return "F32"
    kind = TYPES[dtype or str(tensor.dtype).removeprefix("torch.")]
    return "F16" if kind == "Q8_0" and tensor.shape[-1] % Q8_BLOCK else kind


def _metadata(trained: TrainedModel, family: str) -> dict[str, Any]:
    opened, model = trained.opened, trained.spec.model
    architecture_keys: dict[str, Any] = {
        "context_length": opened.context,
        "embedding_length": model.dim,
        "block_count": model.n_layers,
        "feed_forward_length": model.ffn_dim,
        "attention.head_count": model.n_heads,
        "attention.head_count_kv": model.n_kv_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        "attention.layer_norm_rms_epsilon": float(model.norm_eps),
        "rope.freq_base": float(model.rope_theta),
        "rope.dimension_count": model.head_dim,
        "vocab_size": model.vocab_size,
    }
    scaling = model.rope_scaling
    if scaling is not None and scaling.kind == "linear":
        architecture_keys |= {
            "rope.scaling.type": "linear",
            "rope.scaling.factor": float(scaling.factor),
        }
    metadata = {f"{family}.{key}": value for key, value in architecture_keys.items()}
    metadata["general.name"] = opened.note.get("title") if opened.imported else trained.spec.name
    if opened.tokenizer is not None:
        metadata |= metadata_of(opened.tokenizer, model.vocab_size)
        metadata[f"{KEY}add_bos_token"] = bool(opened.begin)
        if opened.bos is not None:
            metadata[f"{KEY}bos_token_id"] = opened.bos
        for name, token in zip(("eos", "eot", "eom"), opened.end, strict=False):
            metadata[f"{KEY}{name}_token_id"] = token
    if opened.chat_template is not None:
        metadata["tokenizer.chat_template"] = opened.chat_template
    return metadata


def _write(
    path: Path,
    family: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, LazyTensor],
    types: Mapping[str, str],
) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quant_shape_to_byte_shape

    writer = GGUFWriter(path, family)
    for key, value in metadata.items():
        _add(writer, key, value)
    for name, tensor in tensors.items():
        kind = GGMLQuantizationType[types[name]]
        shape = quant_shape_to_byte_shape(tensor.shape, kind)
        size = int(np.prod(shape))
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    for name, (_, values) in zip(tensors, read_ahead(tensors.values()), strict=True):
        writer.write_tensor_data(_encode(values, types[name]))
        write_behind(writer.fout[0])
    writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _encode(tensor: Tensor, kind: str) -> np.ndarray:
    """Return a tensor's bytes (uint8) in a GGUF tensor type."""
    if kind == "Q8_0":
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        return quantize(tensor.float().numpy(), GGMLQuantizationType.Q8_0)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    return tensor.to(dtype).contiguous().reshape(-1).view(torch.uint8).numpy()
