"""Load or train the tokenizer of prepared data, and check it against the spec and the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..durable_files import is_undamaged, read_note_or_empty, write, write_note
from ..tokenizers.loading import load_tokenizer_file
from ..tokenizers.tokenizer import (
    EOS,
    Tokenizer,
    TokenizerError,
    sample_lines,
    train_tokenizer,
    training_lines,
)
from .prepare_job import PrepareJob
from .sources.skipped_records import Skipped
from .sources.source_documents import documents

UNKNOWN_SHARE = 0.01  # largest fraction of a source's tokens that may be the unknown piece
FIRST_CHECK_TOKENS = 1 << 20  # tokens after which the fraction is first checked


def given_tokenizer(job: PrepareJob) -> Tokenizer | None:
    """Load the tokenizer at `tokenizer.path`; return None if the spec trains one instead.

    Writes no files. Raises TokenizerError if it cannot be loaded or does not fit the spec.
    """
    path, eos = job.tokenizer.get("path"), job.tokenizer.get("eos")
    if not path:
        if eos not in (None, EOS, "</s>"):
            raise TokenizerError(
                f"tokenizer.eos = {eos!r}, but the trained tokenizer ends documents with piece "
                f"{EOS}: set tokenizer.eos = {EOS}, or leave it out"
            )
        return None
    model = load_tokenizer_file(path, eos)
    if model.vocab_size > job.vocab_size:
        raise TokenizerError(
            f"{path} has token ids up to {model.vocab_size - 1:,}, but model.vocab_size = "
            f"{job.vocab_size}: raise model.vocab_size to at least {model.vocab_size}"
        )
    if model.eos < 0:
        raise TokenizerError(
            f"{path} does not define an end-of-document piece: set tokenizer.eos to its id or "
            f"text{model.candidates()}"
        )
    return model


def load_or_make_tokenizer(
    job: PrepareJob, key: str, train: Callable[[PrepareJob], Tokenizer]
) -> Tokenizer:
    """Return the tokenizer that the directory has for `key`, or else make one and write it there.

    The new one is that of `tokenizer.path`, or the result of `train`. key: fingerprint of the
    settings and inputs. Raises TokenizerError if a file cannot be used or does not fit the spec.
    """
    path = job.root / "tokenizer.model"
    if has_saved_tokenizer(job, key):
        return load_tokenizer_file(path)
    model = given_tokenizer(job) or train(job)
    sha256 = write(path, model.model)
    write_note(job.root / "tokenizer.json", {"key": key, "file_sha256": sha256})
    return model


def has_saved_tokenizer(job: PrepareJob, key: str) -> bool:
    """Return whether the job's directory has an undamaged tokenizer that was made for `key`.

    key: fingerprint of settings and inputs, as for `load_or_make_tokenizer`.
    """
    noted = read_note_or_empty(job.root / "tokenizer.json")
    path = job.root / "tokenizer.model"
    return noted.get("key") == key and is_undamaged(path, noted["file_sha256"])


def train_on_sources(job: PrepareJob) -> Tokenizer:
    """Train a tokenizer on a sample of the training documents.

    Each source contributes its share of `tokenizer.train_bytes`, or all its text. Raises
    SourceError if a source has no training documents.
    """
    lines: list[str] = []
    for source, share in zip(job.sources, job.shares, strict=True):
        job.progress(f"sampling {source['name']}", 0)
        budget = int(job.tokenizer["train_bytes"] * share)
        drawn = sample_lines(_training_texts(job, source), budget, f"{job.seed}\0{source['name']}")
        lines += training_lines(drawn)
    job.progress("training the tokenizer", sum(map(len, lines)))
    return train_tokenizer(lines, kind=job.tokenizer["kind"], vocab_size=job.vocab_size)


def _training_texts(job: PrepareJob, source: dict[str, Any]) -> Iterator[str]:
    skipped, used, held_out = Skipped(), 0, 0
    for text in documents(source, skipped):
        if job.is_held_out(text.encode()):
            held_out += 1
        else:
            used += 1
            yield text
    if not used:
        raise skipped.no_documents_error(source["name"], held_out)


def report_lost(lost: Sequence[str], progress: Callable[[str, int], None]) -> None:
    """Report the kinds of text that decoding does not restore exactly, if there are any.

    lost: from `Tokenizer.lost`. progress: called with (message, 0).
    """
    if lost:
        progress(f"the tokenizer does not restore text exactly: {', '.join(lost)}", 0)


class UnknownCounter:
    """Counter of a source's unknown tokens, which limits them to `UNKNOWN_SHARE`.

    With more, a model would mostly learn to predict the unknown piece. unknown, tokens: numbers of
    unknown and of all tokens counted so far.
    """

    def __init__(self, source: str, model: Tokenizer, counted: Sequence[int] = (0, 0)) -> None:
        """Start counting. source: its name. counted: (unknown tokens, all tokens) so far."""
        self.source, self.model, (self.unknown, self.tokens) = source, model, counted

    def add(self, texts: Sequence[str], encoded: Sequence[np.ndarray]) -> None:
        """Count a batch of texts; from `FIRST_CHECK_TOKENS` tokens on, also call `check`.

        encoded: ids of each text, int32 [n].
        """
        self.unknown += self.model.unknown(texts, encoded)
        self.tokens += sum(map(len, encoded))
        if self.tokens >= FIRST_CHECK_TOKENS:
            self.check()

    def check(self) -> None:
        """Raise TokenizerError if more than `UNKNOWN_SHARE` of the tokens so far are unknown."""
        tokens = max(self.tokens, self.unknown)
        if self.unknown > UNKNOWN_SHARE * tokens:
            raise TokenizerError(
                f"source {self.source!r}: the tokenizer has no pieces for "
                f"{self.unknown / tokens:.1%} of this text, which becomes [UNK] or is dropped: "
                "set tokenizer.path to one with byte fallback or byte-level pieces, or remove it "
                "to train one on the sources"
            )
