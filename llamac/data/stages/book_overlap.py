"""Drop books whose content is mostly contained in another book (LLaMA paper, section 2.1).

A book is represented by one in 16 of its word n-grams, chosen by hash (shingles). Of two
overlapping books the smaller one is dropped, and of equal ones the later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamac.data.document import Document, Filter, Survey
from llamac.data.stages.common import arrays, segments
from llamac.data.stages.common.words import ngrams, words
from llamac.spec.stages import BookOverlap

SAMPLE_BITS = 4  # one in 2^SAMPLE_BITS n-grams is a shingle
MAX_HOLDERS = 64
"""Maximum number of books that a shingle is compared with, largest first.

Text that many books share, such as a licence, would otherwise pair all of them.
"""

_FOUND = np.dtype([("key", "<u8"), ("book", "<u4")])
_PAIR = np.dtype([("book", "<u4"), ("other", "<u4")])


def build(stage: BookOverlap) -> Survey:
    """Return the survey that drops books that overlap another by more than `stage.threshold`."""
    return _BookOverlap(stage.threshold, stage.ngram)


class _BookOverlap:
    def __init__(self, threshold: float, ngram: int) -> None:
        self.threshold, self.ngram = threshold, ngram

    def scan(self, documents: Iterable[Document], findings: Path) -> None:
        """Write the sorted sampled shingles with their books, and their number per book."""
        records, sizes, places = [np.empty(0, _FOUND)], [], []
        for number, document in enumerate(documents):
            shingles = np.unique(ngrams(words(document.text), self.ngram))
            sampled = shingles[: np.searchsorted(shingles, 1 << (64 - SAMPLE_BITS))]
            book = np.empty(len(sampled), _FOUND)
            book["key"], book["book"] = sampled << np.uint64(SAMPLE_BITS), number
            records.append(book)
            sizes.append(len(sampled))
            places.append(f"{document.file}:{document.line}")
        shared = np.concatenate(records)
        shared = shared[np.argsort(shared["key"], kind="stable")]
        sizes = np.array(sizes, np.int64)
        arrays.save(findings, {"shingles": shared, "sizes": sizes, **segments.places(places)})

    def merge(self, findings: Sequence[Path], decision: Path) -> None:
        """Decide which books are dropped, in 24 bytes of memory per book."""
        parts = [arrays.load(path) for path in findings]
        starts = np.cumsum([0, *(len(part["sizes"]) for part in parts)])
        sizes = np.concatenate([part["sizes"] for part in parts] or [np.empty(0, np.int64)])
        rank = np.empty(len(sizes), np.int64)
        by_size = np.argsort(-sizes, kind="stable")
        rank[by_size] = np.arange(len(sizes))
        spill = segments.Spill(decision.with_name(decision.name + ".spill"), _PAIR)
        for pairs in _shared_shingles(parts, starts, rank):
            spill.add(np.searchsorted(starts, pairs["book"], side="right") - 1, pairs)
        overlaps: dict[int, dict[int, float]] = {}
        for part in range(len(parts)):
            for book, other, overlap in _overlaps(spill.read_part(part), sizes, self.threshold):
                overlaps.setdefault(book, {})[other] = overlap
        spill.remove()
        dropped: list[dict[int, str]] = [{} for _ in parts]
        dropped_books: set[int] = set()
        for book in sorted(overlaps, key=lambda book: rank[book]):
            holders = [other for other in overlaps[book] if other not in dropped_books]
            if holders:
                dropped_books.add(book)
                holder = max(holders, key=lambda other: (overlaps[book][other], -rank[other]))
                part, owner = (
                    int(np.searchsorted(starts, at, side="right")) - 1 for at in (book, holder)
                )
                place = segments.place(parts[owner], holder - int(starts[owner]))
                detail = f"{overlaps[book][holder]:.0%} in {place}"
                dropped[part][book - int(starts[part])] = detail
        segments.write_dropped(decision, dropped)

    def judge(self, decision: Path, part: int) -> Filter:
        return segments.drop(decision, part, "overlapping book")


def _shared_shingles(
    parts: list[arrays.Arrays], starts: NDArray, rank: NDArray[np.int64]
) -> Iterator[NDArray]:
    """Yield arrays of (book, other) pairs: one per shingle that a larger book `other` has too."""
    for cut in arrays.ranges([part["shingles"]["key"] for part in parts]):
        runs = [part["shingles"][piece] for part, piece in zip(parts, cut, strict=True)]
        if not runs:
            return
        keys = np.concatenate([piece["key"] for piece in runs])
        books = np.concatenate(
            [piece["book"] + start for piece, start in zip(runs, starts[:-1], strict=True)]
        )
        order = np.lexsort((rank[books], keys))
        keys, books = keys[order], books[order]
        for _ in range(MAX_HOLDERS):
            # The largest remaining book of each shingle, against all after it.
            new = np.r_[True, keys[1:] != keys[:-1]][: len(keys)]
            first = np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))
            later = np.flatnonzero(~new)
            if not len(later):
                break
            pairs = np.empty(len(later), _PAIR)
            pairs["book"], pairs["other"] = books[later], books[first[later]]
            yield pairs
            keys, books = keys[later], books[later]


def _overlaps(
    pairs: NDArray, sizes: NDArray[np.int64], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yield (book, other, share of the book's shingles that the other has) above the threshold."""
    joined = pairs["book"].astype(np.uint64) << np.uint64(32) | pairs["other"]
    both, counts = np.unique(joined, return_counts=True)
    books, others = (both >> np.uint64(32)).astype(np.int64), (both & np.uint64(2**32 - 1))
    overlaps = counts / sizes[books]
    for at in np.flatnonzero(overlaps > threshold):
        yield int(books[at]), int(others[at]), float(overlaps[at])
