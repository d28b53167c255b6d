"""A model of any format: its description and its tensors, not yet read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamac.convert.tensors import Stored

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a model's tensors by canonical name."""


@dataclass(frozen=True)
class ForeignModel:
    """A model in another format.

    family: as import.json names it. title: what a person calls it. model: the [model] table.
    tensors: canonical names → tensors, in our row order, once the shapes that the model must have
    are known; raises ConversionError unless they are all there. files: what was read, to be hashed.
    tokenizer: contents of the tokenizer's files by name, as they are to lie in the import. bos: id
    that the format names so. begin, end: ids that a text begins with, and that end it. context:
    most positions it was made for. generation: its authors' settings.
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
