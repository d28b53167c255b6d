"""Arguments of one preparation of data, which its modules share."""

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

Progress = Callable[[str, int], None]  # (activity, bytes of text done so far)


def ignore_progress(stage: str, done: int) -> None:
    """Progress callback that does nothing."""


@dataclass(frozen=True)
class PrepareJob:
    """Arguments of one preparation, as `token_shards.prepare` documents them.

    root: directory of the prepared data.
    sources: `[[data.source]]` tables. tokenizer: `[tokenizer]` table.
    vocab_size: the model's vocabulary. validation: fraction of documents held out.
    shard_tokens: tokens per shard.
    seed: seed of the validation split and of the tokenizer's sample.
    progress: called with (activity, bytes of text done).
    context: largest number of tokens of a conversation; None unless the data is supervised.
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
        """Return the sources' shares, normalised to a sum of one."""
        total = sum(source["share"] for source in self.sources)
        return [source["share"] / total for source in self.sources]

    @property
    def supervised(self) -> bool:
        """Return whether any source holds conversations, so that some tokens have no loss."""
        return any(source["kind"] in CONVERSATIONS for source in self.sources)

    @property
    def dtype(self) -> np.dtype:
        """Return the dtype of the shards: int32 if `supervised`, else uint16 or uint32."""
        return np.dtype("<i4") if self.supervised else token_dtype(self.vocab_size)

    def stored(self, tokens: np.ndarray) -> np.ndarray:
        """Return the stored form of a document, int32 [n] or, if `supervised`, [n + 1].

        If any source is supervised, PADDING is appended to every document, and its first token has
        no loss, as it would be predicted from padding. tokens: ids with EOS, or a conversation's
        tokens from `AnswerEncoder.encode`, int32 [n].
        """
        if not self.supervised:
            return tokens
        stored = np.append(tokens, np.int32(PADDING))
        stored[0] = min(stored[0], toggle_loss(stored[0]))
        return stored

    def is_held_out(self, data: bytes) -> bool:
        """Return whether a document is in the validation split.

        This depends only on its content, `seed` and `validation`. data: the document in UTF-8.
        """
        digest = hashlib.blake2b(data, digest_size=8, key=str(self.seed).encode()).digest()
        return int.from_bytes(digest, "little") < self.validation * 2**64
