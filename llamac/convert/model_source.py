"""Description of a model in any format, with lazily read tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamac.convert.tensors import LazyTensor
from llamac.runtime.checkpoint.model_directory import TOKENIZER_FILES

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a model's tensors by canonical name."""


@dataclass(frozen=True)
class FrozenBase:
    """Frozen base weights of imported adapters.

    checkpoint: absolute path of the base's checkpoint. finetune: [finetune] table of the adapters.
    float32: whether the base computes in float32.
    """

    checkpoint: Path
    finetune: Mapping[str, Any]
    float32: bool


@dataclass(frozen=True)
class ForeignModel:
    """A model opened from another format.

    family: model_type of transformers or GGUF's architecture, or "peft". title: display name.
    model: the spec's [model] table.
    tensors: function from the expected shapes to lazily read tensors by canonical name, in the row
    order of model.rope_layout; raises ConversionError if the source has other tensors or shapes.
    files: source files, to be hashed. context: maximum number of positions.
    tokenizer: contents of the tokenizer files by name; empty if there is none.
    bos: BOS id. begin: ids that the tokenizer puts before every text.
    end: ids each of which ends a text. chat_template: Jinja text.
    generation: default sampling settings, such as temperature, by transformers' names.
    frozen: the base weights if `tensors` are LoRA adapters, else None.
    """

    family: str
    title: str
    model: dict[str, Any]
    tensors: Callable[[Shapes], dict[str, LazyTensor]]
    files: tuple[Path, ...]
    context: int
    tokenizer: Mapping[str, bytes] = field(default_factory=dict)
    bos: int | None = None
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    chat_template: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    frozen: FrozenBase | None = None

    @property
    def path(self) -> Path:
        """Return the model's file, or the directory of its files if there are several."""
        only, *others = self.files
        return only.parent if others else only

    @property
    def tokenizer_file(self) -> str | None:
        """Return the name of the tokenizer file that is used, or None if there is none."""
        return next((name for name in TOKENIZER_FILES if name in self.tokenizer), None)
