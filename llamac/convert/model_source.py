"""Description of a model in any format, with tensors that are not yet read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamac.convert.tensors import Stored

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a model's tensors by canonical name."""


@dataclass(frozen=True)
class FrozenBase:
    """The frozen weights that imported adapters are added to.

    checkpoint: absolute path of the weights. finetune: the [finetune] table of the adapters.
    exact: whether the weights are computed with in float32.
    """

    checkpoint: Path
    finetune: Mapping[str, Any]
    exact: bool


@dataclass(frozen=True)
class ForeignModel:
    """A model in another format.

    family: as in import.json. title: display name. model: the [model] table. tensors: function from
    the expected shapes to tensors by canonical name, in the spec's row order; raises
    ConversionError if some are missing. files: files read, to be hashed. tokenizer: contents of the
    import's tokenizer files by name. bos: BOS id. begin, end: ids that begin and that end a text.
    context: largest number of positions. generation: default generation settings. frozen: the base
    weights, if `tensors` are adapters only.
    """

    family: str
    title: str
    model: dict[str, Any]
    tensors: Callable[[Shapes], dict[str, Stored]]
    files: tuple[Path, ...]
    context: int
    tokenizer: Mapping[str, bytes] = field(default_factory=dict)
    bos: int | None = None
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    chat_template: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    frozen: FrozenBase | None = None
