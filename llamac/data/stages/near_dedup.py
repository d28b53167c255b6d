"""Drop near-duplicate documents: MinHash signatures, banding, verified pairs (Broder 1997).

A document is the set of its word n-grams. Documents with an equal band of their signatures are
candidate pairs. Pairs whose estimated Jaccard similarity reaches the threshold are connected, and
of each connected component the first document is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamac.data.document import Document, Filter, Survey
from llamac.data.stages.common import arrays, segments
from llamac.data.stages.common.disjoint_sets import join, roots
from llamac.data.stages.common.words import Hashes, mix_bits, ngrams, words
from llamac.spec.stages import NearDedup

Signatures = NDArray[np.uint32]

FOUND_AT_THRESHOLD = 0.95
"""Least probability that a pair as similar as the threshold meets in a band."""

_BLOCK = 512  # shingles per block, so that products stay in the cache


def build(stage: NearDedup) -> Survey:
    return _NearDedup(stage.threshold, stage.ngram, stage.permutations)


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Return (bands, rows per band): the longest rows that still find pairs at the threshold.

    Long rows avoid candidate pairs of low similarity, which would have to be verified.
    """
    for rows in range(permutations, 1, -1):
        if 1 - (1 - threshold**rows) ** (permutations // rows) >= FOUND_AT_THRESHOLD:
            return permutations // rows, rows
    return permutations, 1


def minhash(shingles: Hashes, permutations: int) -> Signatures:
    """Return the minimum of the shingles under each permutation, uint32 [permutations].

    A permutation is an odd multiple plus a constant modulo 2^32 of the hash's upper half.
    """
    multipliers, offsets = _permutations(permutations)
    least = np.full(permutations, 2**32 - 1, np.uint32)
    values = (shingles >> np.uint64(32)).astype(np.uint32)
    for begin in range(0, len(values), _BLOCK):
        products = multipliers * values[begin : begin + _BLOCK]
        products += offsets
        np.minimum(least, products.min(1), out=least)
    return least


def _permutations(count: int) -> tuple[Signatures, Signatures]:
    """Return multipliers and offsets, uint32 [count, 1] each, the same on every machine."""
    values = mix_bits(np.arange(1, 2 * count + 1, dtype=np.uint64))
    high = (values >> np.uint64(32)).astype(np.uint32)
    return (high[:count] | np.uint32(1))[:, None], high[count:, None]


class _NearDedup:
    def __init__(self, threshold: float, ngram: int, permutations: int) -> None:
        self.threshold, self.ngram, self.permutations = threshold, ngram, permutations
        self.bands, self.rows = bands(threshold, permutations)

    def scan(self, documents: Iterable[Document], found: Path) -> None:
        """Return signatures [n, permutations]; per band, sorted keys and their documents."""
        signatures, places, worded = [], [], []
        for document in documents:
            shingles = ngrams(words(document.text), self.ngram)
            signatures.append(minhash(shingles, self.permutations))
            worded.append(len(shingles) > 0)
            places.append(f"{document.file}:{document.line}")
        stacked = np.array(signatures, np.uint32).reshape(-1, self.permutations)
        numbers = np.flatnonzero(worded).astype(np.uint32)
        keys = self._keys(stacked[numbers])
        order = np.argsort(keys, axis=1, kind="stable")
        arrays.save(
            found,
            {
                "signatures": stacked,
                "keys": np.take_along_axis(keys, order, 1),
                "documents": numbers[order],
                **segments.places(places),
            },
        )

    def _keys(self, signatures: Signatures) -> Hashes:
        """Return the key of each band of each document, uint64 [bands, n]."""
        keys = np.zeros((self.bands, len(signatures)), np.uint64)
        for row in range(self.rows):
            keys *= np.uint64(0x9E3779B97F4A7C15)
            keys += signatures[:, row : self.bands * self.rows : self.rows].T
        return mix_bits(keys)

    def merge(self, found: Sequence[Path], decided: Path) -> None:
        """Find the sets of near-duplicates. Labels are mapped from a file, not held in memory."""
        parts = [arrays.load(path) for path in found]
        starts = np.cumsum([0, *(len(part["signatures"]) for part in parts)])
        labels_path = decided.with_name(decided.name + ".labels")
        np.arange(starts[-1], dtype=np.int64).tofile(labels_path)
        labels = np.memmap(labels_path, np.int64, "r+") if starts[-1] else np.empty(0, np.int64)
        for band in range(self.bands):
            for first, second in self._meetings(parts, starts, band):
                apart = roots(labels, first) != roots(labels, second)
                first, second = first[apart], second[apart]
                alike = similarity(parts, starts, first, second) >= self.threshold
                join(labels, first[alike], second[alike])
        segments.write_dropped(
            decided,
            (_losers(parts, starts, labels, part) for part in range(len(parts))),
        )
        del labels
        labels_path.unlink()

    def _meetings(
        self, parts: list[arrays.Arrays], starts: NDArray, band: int
    ) -> Iterator[tuple[NDArray, NDArray]]:
        """Return pairs with equal keys: each document with the first and the previous one."""
        for cut in arrays.ranges([part["keys"][band] for part in parts]):
            keys = np.concatenate(
                [part["keys"][band][taken] for part, taken in zip(parts, cut, strict=True)]
                or [np.empty(0, np.uint64)]
            )
            documents = np.concatenate(
                [
                    part["documents"][band][taken] + start
                    for part, taken, start in zip(parts, cut, starts[:-1], strict=True)
                ]
                or [np.empty(0, np.int64)]
            )
            order = np.argsort(keys, kind="stable")  # parts and documents stay in order
            keys, documents = keys[order], documents[order]
            new = np.r_[True, keys[1:] != keys[:-1]][: len(keys)]
            first = np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))
            later = np.flatnonzero(~new)
            for begin in range(0, len(later), arrays.IN_MEMORY // 16):
                batch = later[begin : begin + arrays.IN_MEMORY // 16]
                yield documents[first[batch]], documents[batch]
                distant = batch[first[batch] < batch - 1]
                yield documents[distant - 1], documents[distant]

    def judge(self, decided: Path, part: int) -> Filter:
        return segments.drop(decided, part, "near-duplicate")


def similarity(
    parts: list[arrays.Arrays], starts: NDArray, first: NDArray, second: NDArray
) -> NDArray[np.float64]:
    """Return the estimated Jaccard similarity of pairs of documents, numbered over all parts."""
    estimates = np.empty(len(first))
    for begin in range(0, len(first), 1 << 14):
        batch = slice(begin, begin + (1 << 14))
        same = _signatures(parts, starts, first[batch]) == _signatures(parts, starts, second[batch])
        estimates[batch] = same.mean(1)
    return estimates


def _signatures(parts: list[arrays.Arrays], starts: NDArray, documents: NDArray) -> Signatures:
    owners = np.searchsorted(starts, documents, side="right") - 1
    rows = np.empty((len(documents), parts[0]["signatures"].shape[1]), np.uint32)
    for owner in np.unique(owners):
        mine = owners == owner
        rows[mine] = parts[owner]["signatures"][documents[mine] - starts[owner]]
    return rows


def _losers(
    parts: list[arrays.Arrays], starts: NDArray, labels: NDArray, part: int
) -> dict[int, str]:
    documents = np.arange(starts[part], starts[part + 1])
    representatives = roots(labels, documents)
    losers = representatives != documents
    documents, representatives = documents[losers], representatives[losers]
    owners = np.searchsorted(starts, representatives, side="right") - 1
    details = {}
    alike = similarity(parts, starts, documents, representatives)
    for document, keeper, owner, estimate in zip(
        documents, representatives, owners, alike, strict=True
    ):
        place = segments.place(parts[owner], int(keeper - starts[owner]))
        details[int(document - starts[part])] = f"{estimate:.2f} like {place}"
    return details
