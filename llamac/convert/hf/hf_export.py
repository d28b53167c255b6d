"""Export to Hugging Face's format, for transformers, vLLM and others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llamac.convert.hf.card import model_card
from llamac.convert.hf.config_export import config_of
from llamac.convert.hf.safetensors_file import write_safetensors
from llamac.convert.hf.tokenizer_export import hf_files
from llamac.convert.names import hf_name, reorder_rows
from llamac.convert.tensors import LazyTensor, commonest_dtype
from llamac.convert.trained_model import TrainedModel
from llamac.runtime.tokenizers.chat_template import CHAT_TEMPLATE

SHARD = 5_000_000_000  # bytes of tensors per file, as the Hugging Face hub recommends


def write_hf(
    trained: TrainedModel, directory: Path, dtype: torch.dtype | None, shard: int = SHARD
) -> None:
    """Write weights, configuration, tokenizer and model card into `directory`.

    dtype: dtype of the written weights; None keeps the checkpoint's.
    shard: maximum bytes of tensors per safetensors file, exceeded only by a single larger tensor.
    Raises ConversionError if transformers has no class for the model, or its tokenizer has no
    equivalent tokenizer.json.
    """
    opened, model = trained.opened, trained.spec.model
    ends = list(opened.end)
    end = ends[0] if len(ends) == 1 else ends or None
    tensors = {
        hf_name(name): reorder_rows(name, tensor, model, "half_split")
        for name, tensor in trained.cast(dtype).items()
    }
    dtype_name = commonest_dtype(tensors)
    config = config_of(model, opened.context, opened.bos, end, dtype_name)
    _write_json(directory / "config.json", config)
    settings = {"bos_token_id": opened.bos, "eos_token_id": end, **opened.generation}
    _write_json(
        directory / "generation_config.json",
        {key: value for key, value in settings.items() if value is not None},
    )
    for name, content in hf_files(opened).items():
        (directory / name).write_bytes(content)
    if opened.chat_template is not None:
        (directory / CHAT_TEMPLATE).write_text(opened.chat_template, encoding="utf-8")
    (directory / "README.md").write_text(model_card(trained, dtype_name), encoding="utf-8")
    _write_shards(directory, tensors, shard)


def _write_shards(directory: Path, tensors: Mapping[str, LazyTensor], max_bytes: int) -> None:
    shards: list[dict[str, LazyTensor]] = [{}]
    shard_bytes = 0
    for name, tensor in tensors.items():
        if shard_bytes and shard_bytes + tensor.nbytes > max_bytes:
            shards.append({})
            shard_bytes = 0
        shards[-1][name] = tensor
        shard_bytes += tensor.nbytes
    if len(shards) == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(directory / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(directory / "model.safetensors.index.json", index)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
