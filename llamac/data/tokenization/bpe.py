"""Show byte-pair encoding step by step: learning merges from a text, and applying a model's.

Sennrich et al. 2016 (arXiv:1508.07909), after Gage 1994. Written to be read, not to be fast:
training and encoding use SentencePiece.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from llamac.runtime.tokenizers.tokenizer import SPACE_MARK, Tokenizer


@dataclass(frozen=True)
class Merge:
    """One merge.

    pair: the two pieces joined. count: occurrences of the pair. pieces: the text after the merge.
    score: the merged piece's score, for merges that a model applies.
    """

    pair: tuple[str, str]
    count: int
    pieces: tuple[str, ...]
    score: float | None = None


def learn_merges(text: str, limit: int | None = None) -> Iterator[Merge]:
    """Yield the merges that BPE training on `text` alone makes, at most `limit` of them.

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

    Each step merges the pair whose piece has the highest score; ties go to the leftmost. Text that
    has no piece stays as characters.
    """
    known = {tokenizer.piece(i): tokenizer.score(i) for i in range(tokenizer.vocab_size)}
    pieces = starting(tokenizer, text)
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
    """Return whether the model is BPE, whose scores are the merge ranks 0, -1, -2, …."""
    scores = [tokenizer.score(i) for i in range(tokenizer.vocab_size)]
    return min(scores) < 0 and all(score == int(score) <= 0 for score in scores)


def starting(tokenizer: Tokenizer, text: str) -> list[str]:
    """Return the characters that the model starts from.

    A space is written as U+2581; some models also put one at the beginning.
    """
    marked = text.replace(" ", SPACE_MARK)
    first = tokenizer.encode(text[:1]) if text else []
    prefixed = len(first) and tokenizer.piece(int(first[0])).startswith(SPACE_MARK)
    return list(SPACE_MARK + marked if prefixed and not text.startswith(" ") else marked)


def merge_pair(pieces: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Return the pieces with each occurrence of `pair` merged, from left to right."""
    found: list[str] = []
    at = 0
    while at < len(pieces):
        here = tuple(pieces[at : at + 2]) == pair
        found.append("".join(pair) if here else pieces[at])
        at += 2 if here else 1
    return found


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
