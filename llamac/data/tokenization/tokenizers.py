"""Train, compare and explain tokenizers, for `llamac tokenizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamac.data.streaming import texts
from llamac.data.tokenization.bpe import apply_merges, learn_merges, merges_by_score
from llamac.runtime.data.prepare_job import PrepareJob, ignore_progress
from llamac.runtime.terminal import escaped
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import (
    Tokenizer,
    TokenizerError,
    sample_lines,
    train_tokenizer,
    training_lines,
)
from llamac.spec import Spec

SAMPLE_FACTOR = 32  # text to draw a sample from, as a multiple of the sample's size


class NoTokenizerError(ValueError):
    """No tokenizer was found, or the one found does not support the operation."""

    exit_code = 2


def find_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer from its file, a directory of prepared data, or a run directory.

    name: path of one of these. Raises NoTokenizerError if there is none or it cannot be read.
    """
    path = Path(name)
    if path.is_dir():
        places = (path / "tokenizer.model", path / "data" / "tokenizer.model")
        path = next((place for place in places if place.is_file()), None) or _raise_missing(path)
    try:
        return load_tokenizer_file(path)
    except TokenizerError as error:
        raise NoTokenizerError(str(error)) from error


def _raise_missing(path: Path) -> Path:
    raise NoTokenizerError(f"no tokenizer.model in {path} or {path / 'data'}")


def train_for(spec: Spec, log: Callable[[str], None]) -> Tokenizer:
    """Train a spec's tokenizer on samples of its sources, in proportion to their shares.

    Held-out documents are left out. log: called with each line of progress. Raises NoTokenizerError
    if the spec has a tokenizer already, or a source has no text.
    """
    if spec.tokenizer.path:
        raise NoTokenizerError(
            f"the spec has an existing tokenizer, {spec.tokenizer.path}: remove tokenizer.path to "
            "train one"
        )
    job = PrepareJob(
        root=Path(),
        sources=[source.model_dump() for source in spec.data.source],
        tokenizer=spec.tokenizer.model_dump(),
        vocab_size=spec.model.vocab_size,
        validation=spec.data.validation,
        shard_tokens=spec.data.shard_tokens,
        seed=spec.seed,
        progress=ignore_progress,
    )
    lines: list[str] = []
    for source, share in zip(spec.data.source, job.shares, strict=True):
        log(f"sampling {source.name} …")
        trained_on = (text for text in texts(source) if not job.is_held_out(text.encode()))
        budget = int(spec.tokenizer.train_bytes * share)
        drawn = sample_lines(trained_on, budget, f"{spec.seed}\0{source.name}")
        if not drawn:
            raise NoTokenizerError(f"source {source.name!r} has no text to train a tokenizer")
        lines += training_lines(drawn)
    log("training the tokenizer …")
    return train_tokenizer(lines, kind=spec.tokenizer.kind, vocab_size=spec.model.vocab_size)


@dataclass(frozen=True)
class TokenizerComparison:
    """Comparison of two tokenizers, a and b, on one source.

    source: its name, or `all` for the sum of several. nbytes: bytes of text. tokens: tokens of (a,
    b). lost: characters in texts that (a, b) does not restore exactly, apart from space at either
    end.
    """

    source: str
    nbytes: int
    tokens: tuple[int, int]
    lost: tuple[int, int]

    @property
    def bytes_per_token(self) -> tuple[float, float]:
        """Return the bytes per token of (a, b)."""
        a, b = self.tokens
        return self.nbytes / max(a, 1), self.nbytes / max(b, 1)

    @property
    def ratio(self) -> float:
        """Return b's bytes per token over a's: above 1, b compresses better; NaN without text."""
        a, b = self.bytes_per_token
        return b / a if a else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON object, with pairs as `{"a": …, "b": …}`."""
        names = ("a", "b")
        return {
            "source": self.source,
            "bytes": self.nbytes,
            "tokens": dict(zip(names, self.tokens, strict=True)),
            "bytes_per_token": dict(zip(names, self.bytes_per_token, strict=True)),
            "ratio": self.ratio,
            "characters_lost": dict(zip(names, self.lost, strict=True)),
        }


def compare_tokenizers(
    a: Tokenizer, b: Tokenizer, spec: Spec, size: int
) -> list[TokenizerComparison]:
    """Compare tokenizers on a sample of about `size` bytes of each source of a spec.

    A sample is drawn from the source's first `SAMPLE_FACTOR` times `size` bytes. With several
    sources, the last entry, `all`, is their sum.
    """
    rows = []
    for source in spec.data.source:
        max_bytes = size * SAMPLE_FACTOR
        limited = source.model_copy(
            update={"max_bytes": min(source.max_bytes or max_bytes, max_bytes)}
        )
        drawn = sample_lines(texts(limited), size, source.name)
        nbytes = sum(len(text.encode()) for text in drawn)
        counts = [_count_tokens(tokenizer, drawn) for tokenizer in (a, b)]
        tokens, lost = zip(*counts, strict=True)
        rows.append(TokenizerComparison(source.name, nbytes, tokens, lost))
    if len(rows) > 1:
        sums = np.array([[row.nbytes, *row.tokens, *row.lost] for row in rows]).sum(0).tolist()
        rows.append(TokenizerComparison("all", sums[0], (sums[1], sums[2]), (sums[3], sums[4])))
    return rows


def _count_tokens(tokenizer: Tokenizer, texts: list[str]) -> tuple[int, int]:
    """Return (tokens, characters of texts that decoding does not restore)."""
    tokens = lost = 0
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        tokens += len(ids)
        lost += len(text) if tokenizer.decode(ids).strip() != text.strip() else 0
    return tokens, lost


def merge_lines(text: str, tokenizer: Tokenizer | None, limit: int | None) -> Iterator[str]:
    """Yield lines that show the merges of a text one by one, and a summary.

    tokenizer: a BPE model whose merges are applied; None learns merges from the text.
    limit: maximum number of merges shown; None shows all.
    Raises NoTokenizerError for another kind of tokenizer.
    """
    if tokenizer is None:
        yield f"start: {_one_line(text)}"
        steps = learn_merges(text, limit)
    else:
        if not merges_by_score(tokenizer):
            raise NoTokenizerError("merges can only be shown for SentencePiece BPE models")
        steps = apply_merges(tokenizer, text)
    pieces: tuple[str, ...] = tuple(text)
    number = 0
    for number, step in enumerate(steps, 1):
        if limit is not None and number > limit:
            break
        pieces = step.pieces
        why = f"{step.count} times" if step.score is None else f"score {step.score:g}"
        yield f"{number}: {_one_line(step.pair, ' + ')}  ({why})  →  {_one_line(pieces)}"
    if tokenizer is None:
        summary = f"{len(pieces)} pieces, {len({*pieces})} distinct"
        yield f"end: {number} merges, {len(text)} characters in {summary}"
        return
    ids = tokenizer.encode(text)
    listing = _one_line(f"{tokenizer.piece(int(i))}={int(i)}" for i in ids)
    yield f"end: {len(text.encode())} bytes in {len(ids)} tokens: {listing}"


def _one_line(pieces: Iterable[str], between: str = " ") -> str:
    """Join pieces into one line, with line ends and tabs escaped."""
    return escaped(between.join(pieces)).replace("\n", "\\n").replace("\t", "\\t")
