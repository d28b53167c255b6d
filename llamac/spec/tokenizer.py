"""[tokenizer]: a SentencePiece model, trained from the spec's own sources or given."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llamac.spec.section import NonEmpty, Section
from llamac.spec.units import Bytes


class Tokenizer(Section):
    """Splits text into tokens: a SentencePiece model, trained on the sources or given."""

    kind: Literal["bpe", "unigram"] = Field(default="bpe", description="SentencePiece algorithm.")
    path: NonEmpty | None = Field(
        default=None,
        description="An existing SentencePiece .model file. Default: train one on the sources.",
    )
    train_bytes: Bytes = Field(
        default=50_000_000,
        description="Text sampled from the sources to train the tokenizer, bytes.",
    )
