"""[tokenizer]: a SentencePiece model, trained from the spec's own sources or given."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llamac.spec.section import NonEmpty, Section
from llamac.spec.units import Bytes

EOS = 2
"""What ends a document in a tokenizer that llamac trains, as in LLaMA's."""


class Tokenizer(Section):
    """Splits text into tokens: a SentencePiece model trained on the sources, or what is given."""

    FILES = ("path",)

    kind: Literal["bpe", "unigram"] = Field(default="bpe", description="SentencePiece algorithm.")
    path: NonEmpty | None = Field(
        default=None,
        description="An existing SentencePiece .model, HF tokenizer.json or Llama 3's "
        "tokenizer.model. Default: train one on the sources.",
    )
    eos: Annotated[int, Field(ge=0)] | NonEmpty | None = Field(
        default=None,
        description="The piece that ends a document: its id or its text. Default: the model's own; "
        "a trained tokenizer's is 2.",
    )
    train_bytes: Bytes = Field(
        default=50_000_000,
        description="Text sampled from the sources to train the tokenizer, bytes.",
    )
