"""Open a run or an import for export, with its weights not yet read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from llamac.convert.directory import shapes_of
from llamac.convert.errors import ConversionError
from llamac.convert.merge_adapters import merge_adapters
from llamac.convert.tensors import Stored, require_tensors
from llamac.convert.weights import read_weights
from llamac.runtime.checkpoint import integrity
from llamac.runtime.checkpoint.adapters import frozen_weights_of
from llamac.runtime.checkpoint.model_directory import ModelDirectory, is_import, open_model
from llamac.runtime.checkpoint.same_settings import changed_keys
from llamac.spec import Spec, load_spec
from llamac.spec.finetune import Finetune

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainedModel:
    """A model to export.

    tensors: by canonical name, in the row order of spec.model.rope_layout.
    spec: of `tensors`, into which adapters are merged. adapters: the adapters alone; empty
    if all weights were trained. finetune: the settings that trained them.
    """

    opened: ModelDirectory
    spec: Spec
    tensors: dict[str, Stored]
    adapters: dict[str, Stored]
    finetune: Finetune

    @property
    def step(self) -> int:
        return integrity.read_state(self.opened.checkpoint)["step"]

    def cast(self, dtype: torch.dtype | None) -> dict[str, Stored]:
        """Return the tensors in `dtype`; None leaves each in its own."""
        return {name: tensor.cast(dtype) for name, tensor in self.tensors.items()}


def open_trained(run: Path, which: str, say: Say) -> TrainedModel:
    """Open a run or an import with a complete checkpoint. Raises RunError."""
    opened = open_model(run, which, say, need_tokenizer=not is_import(run))
    spec = load_spec(str(run / "spec.toml"))
    saved_model = integrity.read_state(opened.checkpoint)["curve"].get("model", {})
    if changed := changed_keys(saved_model, opened.spec["model"]):
        raise ConversionError(
            f"{opened.checkpoint} holds a model that differs from {run}/spec.toml: "
            f"{', '.join(changed)} differ"
        )
    tensors, shapes, finetune = read_weights(opened.checkpoint), shapes_of(spec), spec.finetune
    adapters: dict[str, Stored] = {}
    if finetune.adapts:
        adapters = {name: tensors[name] for name in shapes if name in tensors}
        tensors = read_weights(frozen_weights_of(opened.checkpoint)) | tensors
    require_tensors(tensors, shapes, str(opened.checkpoint))
    tensors = {name: tensors[name] for name in shapes}
    if finetune.adapts:
        tensors = merge_adapters(tensors, finetune.scale)
        spec = spec.model_copy(update={"finetune": Finetune()})
    return TrainedModel(opened, spec, tensors, adapters, finetune)
