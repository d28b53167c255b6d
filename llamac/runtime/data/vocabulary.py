"""The tokenizer of prepared data, given or trained, and whether it fits the spec and the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .prepared import read_json, write_bytes, write_json
from .tokenizer import EOS, Tokenizer, TokenizerError

if TYPE_CHECKING:
    from .token_shards import Job

UNKNOWN_SHARE = 0.01  # most of a source's tokens that may be the unknown piece
ENOUGH = 1 << 20  # tokens that are judged before the source is over


def given(job: Job) -> Tokenizer | None:
    """The tokenizer of `tokenizer.path`, None where one is trained. Raises TokenizerError if it
    does not fit the spec, before anything is read or written."""
    path, eos = job.tokenizer.get("path"), job.tokenizer.get("eos")
    if not path:
        if eos not in (None, EOS, "</s>"):
            raise TokenizerError(
                f"tokenizer.eos = {eos!r}, but documents end with piece {EOS} of the trained "
                f"tokenizer: set tokenizer.eos = {EOS}, or leave it out"
            )
        return None
    model = Tokenizer.load(path, eos)
    if model.vocab_size > job.vocab_size:
        raise TokenizerError(
            f"{path} has token ids up to {model.vocab_size - 1:,}, but model.vocab_size = "
            f"{job.vocab_size}: raise model.vocab_size to at least {model.vocab_size}"
        )
    if model.eos < 0:
        raise TokenizerError(
            f"{path} does not say which piece ends a document: give its id or text as "
            f"tokenizer.eos{model.candidates()}"
        )
    return model


def tokenizer_of(job: Job, key: str, train: Callable[[Job], Tokenizer]) -> Tokenizer:
    """The tokenizer of `tokenizer.path`, or one that `train` gives. Kept across a kill: key tells
    whether that of before is still wanted."""
    note, path = job.root / "tokenizer.json", job.root / "tokenizer.model"
    if read_json(note).get("key") == key and path.exists():
        return Tokenizer.load(path)
    model = given(job) or train(job)
    write_bytes(path, model.model)
    write_json(note, {"key": key})
    return model


def say_lost(lost: Sequence[str], progress: Callable[[str, int], None]) -> None:
    """One line, if decoding does not bring back all of the text. lost: as of `Tokenizer.lost`."""
    if lost:
        progress(f"the tokenizer changes text for good: {', '.join(lost)}", 0)


class Unknown:
    """Counts the tokens of a source that stand for text which the tokenizer does not know.

    Raises TokenizerError if they are over 1 %: a model would learn little else of such text.
    """

    def __init__(self, source: str, model: Tokenizer, counted: Sequence[int] = (0, 0)) -> None:
        """counted: unknown tokens and all tokens so far."""
        self.source, self.model, (self.unknown, self.tokens) = source, model, counted

    def add(self, texts: Sequence[str], encoded: Sequence[np.ndarray]) -> None:
        self.unknown += self.model.unknown(texts, encoded)
        self.tokens += sum(map(len, encoded))
        if self.tokens >= ENOUGH:
            self.check()

    def check(self) -> None:
        tokens = max(self.tokens, self.unknown)
        if self.unknown > UNKNOWN_SHARE * tokens:
            raise TokenizerError(
                f"source {self.source!r}: the tokenizer does not know "
                f"{self.unknown / tokens:.1%} of this text, which becomes [UNK] or nothing: give a "
                "tokenizer.path with byte fallback or byte-level pieces, or leave it out to train "
                "one on the sources"
            )
