"""[tokenizer]: a SentencePiece model trained on the spec's sources, or an existing tokenizer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from llamac.spec.section import NonEmpty, Section
from llamac.spec.units import Bytes
from llamac.spec.validation.errors import describe

EOS = 2
"""Id of the token that ends a document in tokenizers that llamac trains, as in LLaMA's."""


ALPACA = "alpaca"
"""Value of `chat_template` for the shipped template of Alpaca's prompts, instead of a file."""


def _piece(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f"must be the id of a piece or its text, not {describe(value)}")
    if isinstance(value, int) and value < 0:
        raise ValueError(f"must be at least 0, not {value}")
    return value


Piece = Annotated[int | str, BeforeValidator(_piece)]


class TokenizerSection(Section):
    """Tokenizer of the run: a SentencePiece model trained on the sources, or an existing one."""

    FILES = ("path", "chat_template")

    kind: Literal["bpe", "unigram"] = Field(default="bpe", description="SentencePiece algorithm.")
    path: NonEmpty | None = Field(
        default=None,
        description="An existing SentencePiece .model, HF tokenizer.json or Llama 3's "
        "tokenizer.model. Default: train one on the sources.",
    )
    eos: Piece | None = Field(
        default=None,
        description="Token that ends a document, as id or text. Default: the tokenizer's own; 2 "
        "for a trained one.",
    )
    chat_template: NonEmpty | None = Field(
        default=None,
        description='Jinja file that renders the chats of supervised data, or "alpaca" for '
        "Alpaca's prompts. Default: the template beside `path`, in chat_template.jinja or "
        "tokenizer_config.json.",
    )
    train_bytes: Bytes = Field(
        default=50_000_000,
        description="Text sampled from the sources to train the tokenizer, bytes.",
    )

    def is_file(self, key: str) -> bool:
        return super().is_file(key) and getattr(self, key) != ALPACA
