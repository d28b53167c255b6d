"""Arguments of one preparation of data, shared by the modules that carry it out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..kernels.padding import PADDING, toggle_loss
from .prepared import token_dtype
from .sources.input_files import CONVERSATIONS

Progress = Callable[[str, int], None]  # (what is being done, bytes of text done so far)


def silent(stage: str, done: int) -> None:
    """Progress callback that does nothing."""


@dataclass(frozen=True)
class PrepareJob:
    """The arguments of `prepare`.

    context: tokens of a sequence, which a conversation of supervised data must fit in.
    """

    root: Path
    sources: list[dict[str, Any]]
    tokenizer: dict[str, Any]
    vocab_size: int
    validation: float
    shard_tokens: int
    seed: int
    progress: Progress
    context: int | None = None

    @property
    def shares(self) -> list[float]:
        total = sum(source["share"] for source in self.sources)
        return [source["share"] / total for source in self.sources]

    @property
    def supervised(self) -> bool:
        """Return whether some source's tokens have a loss only in part."""
        return any(source["kind"] in CONVERSATIONS for source in self.sources)

    @property
    def dtype(self) -> np.dtype:
        """Return the dtype of the shards."""
        return np.dtype("<i4") if self.supervised else token_dtype(self.vocab_size)

    def stored(self, tokens: np.ndarray) -> np.ndarray:
        """Return a document as it is stored. tokens: with its end, int32 [n].

        Beside supervised data, padding follows each document, and predicts nothing.
        """
        if not self.supervised:
            return tokens
        stored = np.append(tokens, np.int32(PADDING))
        stored[0] = min(stored[0], toggle_loss(stored[0]))
        return stored

    def is_held_out(self, data: bytes) -> bool:
        """Return whether a document (as UTF-8) is in the validation split, from its hash alone."""
        digest = hashlib.blake2b(data, digest_size=8, key=str(self.seed).encode()).digest()
        return int.from_bytes(digest, "little") < self.validation * 2**64
