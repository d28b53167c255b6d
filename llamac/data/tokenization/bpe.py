"""Byte-pair encoding step by step: learn merges from a text, or apply those of a model.

Sennrich et al. 2016 (arXiv:1508.07909), after Gage 1994. This is written to be read, not to be
fast; actual training and encoding use SentencePiece.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from llamac.runtime.tokenizers.tokenizer import SPACE_MARK, Tokenizer


@dataclass(frozen=True)
class Merge:
    """Merge of two adjacent pieces, as one step of training or encoding.

    pair: the two pieces. count: occurrences that were merged. pieces: the whole text after the
    merge. score: score of the merged piece in the model; None when merges are learnt.
    """

    pair: tuple[str, str]
    count: int
    pieces: tuple[str, ...]
    score: float | None = None


def learn_merges(text: str, limit: int | None = None) -> Iterator[Merge]:
    """Yield the merges of BPE training on `text`, at most `limit` of them (None: all).

    Each step merges the most frequent pair, until no pair occurs twice. Ties go to the shorter
    pair, then to the first in order of characters, as in SentencePiece.
    """
    pieces = list(text)
    made = 0
    while limit is None or made < limit:
        counts = [(count, pair) for pair, count in _pairs(pieces).items() if count > 1]
        if not counts:
            return
        count, pair = min(counts, key=lambda c: (-c[0], len("".join(c[1])), "".join(c[1])))
        pieces = merge_pair(pieces, pair)
        yield Merge(pair, count, tuple(pieces))
        made += 1


def apply_merges(tokenizer: Tokenizer, text: str) -> Iterator[Merge]:
    """Yield the merges by which a BPE model encodes `text`.

    Each step merges the pair whose merged piece has the highest score; ties go to the leftmost.
    Characters that are in no piece stay unmerged.
    """
    known = {tokenizer.piece(i): tokenizer.score(i) for i in range(tokenizer.vocab_size)}
    pieces = initial_pieces(tokenizer, text)
    while True:
        scores = [
            (known[a + b], -at) for at, (a, b) in enumerate(_neighbours(pieces)) if a + b in known
        ]
        if not scores:
            return
        score, at = max(scores)
        pair = (pieces[-at], pieces[-at + 1])
        pieces[-at : -at + 2] = ["".join(pair)]
        yield Merge(pair, 1, tuple(pieces), score)


def merges_by_score(tokenizer: Tokenizer) -> bool:
    """Return whether a SentencePiece model is BPE, whose scores are negated merge ranks."""
    scores = [tokenizer.score(i) for i in range(tokenizer.vocab_size)]
    return min(scores) < 0 and all(score == int(score) <= 0 for score in scores)


def initial_pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """Return the pieces, of one character each, that a model begins to merge.

    Spaces become U+2581; some models also put one at the beginning of the text.
    """
    marked = text.replace(" ", SPACE_MARK)
    first = tokenizer.encode(text[:1]) if text else []
    prefixed = len(first) and tokenizer.piece(int(first[0])).startswith(SPACE_MARK)
    return list(SPACE_MARK + marked if prefixed and not text.startswith(" ") else marked)


def merge_pair(pieces: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Return the pieces with each occurrence of `pair` merged, from left to right."""
    merged: list[str] = []
    at = 0
    while at < len(pieces):
        is_pair = tuple(pieces[at : at + 2]) == pair
        merged.append("".join(pair) if is_pair else pieces[at])
        at += 2 if is_pair else 1
    return merged


def _pairs(pieces: Sequence[str]) -> Counter[tuple[str, str]]:
    """Count how often each pair can be merged: `aaa` contains `aa` once."""
    counts: Counter[tuple[str, str]] = Counter()
    before, last = -1, None
    for at, pair in enumerate(_neighbours(pieces)):
        if pair == last and before == at - 1:
            before, last = -1, None
            continue
        counts[pair] += 1
        before, last = (at, pair) if pair[0] == pair[1] else (-1, None)
    return counts


def _neighbours(pieces: Sequence[str]) -> Iterator[tuple[str, str]]:
    return pairwise(pieces)
