"""Arguments of one preparation of data, shared by the modules that carry it out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[str, int], None]  # (what is being done, bytes of text done so far)


def silent(stage: str, done: int) -> None:
    """Progress callback that does nothing."""


@dataclass(frozen=True)
class PrepareJob:
    """The arguments of `prepare`."""

    root: Path
    sources: list[dict[str, Any]]
    tokenizer: dict[str, Any]
    vocab_size: int
    validation: float
    shard_tokens: int
    seed: int
    progress: Progress

    @property
    def shares(self) -> list[float]:
        total = sum(source["share"] for source in self.sources)
        return [source["share"] / total for source in self.sources]

    def is_held_out(self, data: bytes) -> bool:
        """Return whether a document (as UTF-8) is in the validation split, from its hash alone."""
        digest = hashlib.blake2b(data, digest_size=8, key=str(self.seed).encode()).digest()
        return int.from_bytes(digest, "little") < self.validation * 2**64
