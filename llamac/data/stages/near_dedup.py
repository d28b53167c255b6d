"""Drop near-duplicate documents by MinHash signatures with banding (Broder 1997).

A document is the set of its word n-grams. Documents with an equal band of their signatures are
candidate pairs. Pairs whose estimated Jaccard similarity reaches the threshold are connected, and
the first document of each connected component is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamac.data.document import Document, Filter, Survey
from llamac.data.stages.common import arrays, segments
from llamac.data.stages.common.disjoint_sets import find_roots, union
from llamac.data.stages.common.words import Hashes, mix_bits, ngrams, words
from llamac.spec.stages import NearDedup

Signatures = NDArray[np.uint32]
"""MinHash values, uint32: [permutations] of one document, [n, permutations] of several."""

RECALL_AT_THRESHOLD = 0.95
"""Minimum probability that a pair with the threshold similarity has an equal band."""

_BLOCK = 512  # shingles per block, so that products stay in the cache


def build(stage: NearDedup) -> Survey:
    """Return the survey that drops near-duplicates.

    Similarity of `stage.threshold` or more connects documents, of which the first is kept.
    """
    return _NearDedup(stage.threshold, stage.ngram, stage.permutations)


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Return (number of bands, rows per band) of the MinHash signatures.

    Rows per band are the most, and at least 1, with which a pair of similarity `threshold` is a
    candidate with probability `RECALL_AT_THRESHOLD`: more rows give fewer candidates of low
    similarity.
    threshold: Jaccard similarity. permutations: number of hashes in a signature.
    """
    for rows in range(permutations, 1, -1):
        if 1 - (1 - threshold**rows) ** (permutations // rows) >= RECALL_AT_THRESHOLD:
            return permutations // rows, rows
    return permutations, 1


def minhash(shingles: Hashes, permutations: int) -> Signatures:
    """Return a document's MinHash signature, uint32 [permutations].

    shingles: hashes of its n-grams, uint64. A permutation maps the upper half h of a hash to
    a * h + b modulo 2^32, with odd a.
    """
    multipliers, offsets = _permutations(permutations)
    minima = np.full(permutations, 2**32 - 1, np.uint32)
    values = (shingles >> np.uint64(32)).astype(np.uint32)
    for begin in range(0, len(values), _BLOCK):
        products = multipliers * values[begin : begin + _BLOCK]
        products += offsets
        np.minimum(minima, products.min(1), out=minima)
    return minima


def _permutations(count: int) -> tuple[Signatures, Signatures]:
    """Return multipliers and offsets, uint32 [count, 1] each, the same on every machine."""
    values = mix_bits(np.arange(1, 2 * count + 1, dtype=np.uint64))
    high = (values >> np.uint64(32)).astype(np.uint32)
    return (high[:count] | np.uint32(1))[:, None], high[count:, None]


class _NearDedup:
    def __init__(self, threshold: float, ngram: int, permutations: int) -> None:
        self.threshold, self.ngram, self.permutations = threshold, ngram, permutations
        self.bands, self.rows = bands(threshold, permutations)

    def scan(self, documents: Iterable[Document], findings: Path) -> None:
        """Write signatures [n, permutations] and, per band, sorted keys with their documents."""
        signatures, places, has_words = [], [], []
        for document in documents:
            shingles = ngrams(words(document.text), self.ngram)
            signatures.append(minhash(shingles, self.permutations))
            has_words.append(len(shingles) > 0)
            places.append(f"{document.file}:{document.line}")
        stacked = np.array(signatures, np.uint32).reshape(-1, self.permutations)
        numbers = np.flatnonzero(has_words).astype(np.uint32)
        keys = self._keys(stacked[numbers])
        order = np.argsort(keys, axis=1, kind="stable")
        arrays.save(
            findings,
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

    def merge(self, findings: Sequence[Path], decision: Path) -> None:
        """Find the sets of near-duplicates; labels are in a temporary memory-mapped file."""
        parts = [arrays.load(path) for path in findings]
        starts = np.cumsum([0, *(len(part["signatures"]) for part in parts)])
        labels_path = decision.with_name(decision.name + ".labels")
        np.arange(starts[-1], dtype=np.int64).tofile(labels_path)
        labels = np.memmap(labels_path, np.int64, "r+") if starts[-1] else np.empty(0, np.int64)
        for band in range(self.bands):
            for first, second in self._candidate_pairs(parts, starts, band):
                distinct = find_roots(labels, first) != find_roots(labels, second)
                first, second = first[distinct], second[distinct]
                similar = similarity(parts, starts, first, second) >= self.threshold
                union(labels, first[similar], second[similar])
        segments.write_dropped(
            decision,
            (_dropped(parts, starts, labels, part) for part in range(len(parts))),
        )
        del labels
        labels_path.unlink()

    def _candidate_pairs(
        self, parts: list[arrays.Arrays], starts: NDArray, band: int
    ) -> Iterator[tuple[NDArray, NDArray]]:
        """Yield pairs with equal keys: each document with the first and with the previous one."""
        for cut in arrays.ranges([part["keys"][band] for part in parts]):
            keys = np.concatenate(
                [part["keys"][band][piece] for part, piece in zip(parts, cut, strict=True)]
                or [np.empty(0, np.uint64)]
            )
            documents = np.concatenate(
                [
                    part["documents"][band][piece] + start
                    for part, piece, start in zip(parts, cut, starts[:-1], strict=True)
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

    def judge(self, decision: Path, part: int) -> Filter:
        return segments.drop(decision, part, "near-duplicate")


def similarity(
    parts: list[arrays.Arrays], starts: NDArray, first: NDArray, second: NDArray
) -> NDArray[np.float64]:
    """Return the estimated Jaccard similarity of pairs of documents, float64 [pairs].

    parts: findings of each part, with its `signatures`. starts: number of the first document of
    each part. first, second: documents [pairs], numbered over all parts.
    """
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


def _dropped(
    parts: list[arrays.Arrays], starts: NDArray, labels: NDArray, part: int
) -> dict[int, str]:
    documents = np.arange(starts[part], starts[part + 1])
    representatives = find_roots(labels, documents)
    dropped = representatives != documents
    documents, representatives = documents[dropped], representatives[dropped]
    owners = np.searchsorted(starts, representatives, side="right") - 1
    details = {}
    similarities = similarity(parts, starts, documents, representatives)
    for document, kept, owner, estimate in zip(
        documents, representatives, owners, similarities, strict=True
    ):
        place = segments.place(parts[owner], int(kept - starts[owner]))
        details[int(document - starts[part])] = f"{estimate:.2f} like {place}"
    return details
