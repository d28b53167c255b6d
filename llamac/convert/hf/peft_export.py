"""Export LoRA adapters in peft's format, which adds them to the model they were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from llamac.convert.errors import ConversionError
from llamac.convert.hf.safetensors_file import write_safetensors
from llamac.convert.merge_adapters import B, adapted_weight
from llamac.convert.names import hf_name, reorder_rows
from llamac.convert.tensors import LazyTensor
from llamac.convert.trained_model import TrainedModel

PREFIX = "base_model.model."  # of every tensor's name in peft's files


def write_peft(trained: TrainedModel, directory: Path, dtype: torch.dtype | None) -> None:
    """Write a model's LoRA adapters into `directory`, without the weights they are added to.

    The files are adapter_config.json and adapter_model.safetensors.

    dtype: dtype of the written adapters; None keeps the checkpoint's.
    Raises ConversionError for a model without adapters.
    """
    if not trained.adapters:
        raise ConversionError(
            f"{trained.opened.directory} has no adapters: --format peft is for runs with "
            '[finetune] method = "lora"; use --format hf'
        )
    tensors = dict(_peft_entry(trained, name, tensor) for name, tensor in trained.adapters.items())
    write_safetensors(
        directory / "adapter_model.safetensors",
        {name: tensor.cast(dtype) for name, tensor in tensors.items()},
    )
    text = json.dumps(_config(trained), indent=2)
    (directory / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def peft_name(name: str) -> str:
    """Return peft's name of an adapter's A or B.

    name: canonical name; `layers.0.attention.wo_lora_a` becomes
    `base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight`.
    """
    module = hf_name(adapted_weight(name)).removesuffix(".weight")
    return f"{PREFIX}{module}.lora_{name[-1].upper()}.weight"


def _peft_entry(trained: TrainedModel, name: str, tensor: LazyTensor) -> tuple[str, LazyTensor]:
    """Return peft's name and tensor of an adapter's A or B; B has the row order of peft's base."""
    if name.endswith(B):
        tensor = reorder_rows(adapted_weight(name), tensor, trained.spec.model, "half_split")
    return peft_name(name), tensor


def _config(trained: TrainedModel) -> dict[str, Any]:
    finetune, bases = trained.finetune, map(adapted_weight, trained.adapters)
    modules = {base.rpartition(".")[2]: hf_name(base).split(".")[-2] for base in bases}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": trained.opened.note.get("title", ""),
        "r": finetune.rank,
        "lora_alpha": finetune.alpha,
        "lora_dropout": 0.0,
        "target_modules": [modules[target] for target in finetune.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
