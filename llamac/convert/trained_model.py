"""Open a run or an import for export, with lazily read weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from llamac.convert.directory import shapes_of
from llamac.convert.errors import ConversionError
from llamac.convert.merge_adapters import merge_adapters
from llamac.convert.tensors import LazyTensor, require_tensors
from llamac.convert.weights import read_weights
from llamac.runtime.checkpoint import integrity
from llamac.runtime.checkpoint.adapters import find_base_weights
from llamac.runtime.checkpoint.model_directory import ModelDirectory, is_import, open_model
from llamac.runtime.checkpoint.same_settings import changed_keys
from llamac.spec import Spec, load_spec
from llamac.spec.finetune import Finetune

Log = Callable[[str], None]
"""Function that is called with each message for the user."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained model to export.

    opened: its directory: checkpoint, tokenizer and import notes.
    spec: resolved spec, without [finetune] if adapters were merged.
    tensors: weights with adapters merged, by canonical name, in the row order of
    spec.model.rope_layout.
    adapters: the adapters by canonical name; empty if all weights were trained.
    finetune: [finetune] settings of the run.
    """

    opened: ModelDirectory
    spec: Spec
    tensors: dict[str, LazyTensor]
    adapters: dict[str, LazyTensor]
    finetune: Finetune

    @property
    def step(self) -> int:
        """Return the number of optimizer steps in the checkpoint; 0 for an import."""
        return integrity.read_state(self.opened.checkpoint)["step"]

    def cast(self, dtype: torch.dtype | None) -> dict[str, LazyTensor]:
        """Return the tensors with another declared dtype; None keeps the checkpoint's."""
        return {name: tensor.cast(dtype) for name, tensor in self.tensors.items()}


def open_trained_model(run: Path, checkpoint: str, log: Log) -> TrainedModel:
    """Open a run or an import, without reading its weights.

    checkpoint: a step, a path, or "newest". Raises RunError if the checkpoint, or that of adapters'
    base weights, is missing or damaged; ConversionError if it does not match spec.toml.
    """
    opened = open_model(run, checkpoint, log, need_tokenizer=not is_import(run))
    spec = load_spec(str(run / "spec.toml"))
    saved_model = integrity.read_state(opened.checkpoint)["curve"].get("model", {})
    if changed := changed_keys(saved_model, opened.spec["model"]):
        raise ConversionError(
            f"{opened.checkpoint} holds a model that differs from {run}/spec.toml: "
            f"{', '.join(changed)} differ"
        )
    tensors, shapes, finetune = read_weights(opened.checkpoint), shapes_of(spec), spec.finetune
    adapters: dict[str, LazyTensor] = {}
    if finetune.is_lora:
        adapters = {name: tensors[name] for name in shapes if name in tensors}
        tensors = read_weights(find_base_weights(opened.checkpoint)) | tensors
    require_tensors(tensors, shapes, str(opened.checkpoint))
    tensors = {name: tensors[name] for name in shapes}
    if finetune.is_lora:
        tensors = merge_adapters(tensors, finetune.scale)
        spec = spec.model_copy(update={"finetune": Finetune()})
    return TrainedModel(opened, spec, tensors, adapters, finetune)
