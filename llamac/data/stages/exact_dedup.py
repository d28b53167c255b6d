"""Drop documents whose text equals that of an earlier document of the source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from llamac.data.document import Document, Filter, Survey
from llamac.data.stages.common import arrays, segments
from llamac.data.stages.common.need import need
from llamac.spec.stages import ExactDedup

_KEY = np.dtype([("key", "<u8"), ("low", "<u8"), ("document", "<i8")])
_DUPLICATE = np.dtype([("document", "<i8"), ("part", "<i8"), ("first", "<i8")])


def build(stage: ExactDedup) -> Survey:
    """Return the survey that keeps only the first of the documents with equal text."""
    return _ExactDedup()


class _ExactDedup:
    def scan(self, documents: Iterable[Document], findings: Path) -> None:
        """Write the sorted 128-bit hashes of the texts to `findings`."""
        hash128 = need("xxhash").xxh3_128_digest
        digests, places = [], []
        for document in documents:
            digests.append(hash128(document.text.encode()))
            places.append(f"{document.file}:{document.line}")
        keys = np.empty(len(digests), _KEY)
        halves = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
        keys["key"], keys["low"] = halves.T
        keys["document"] = np.arange(len(digests))
        order = np.lexsort((keys["document"], keys["low"], keys["key"]))
        arrays.save(findings, {"keys": keys[order], **segments.places(places)})

    def merge(self, findings: Sequence[Path], decision: Path) -> None:
        parts = [arrays.load(path) for path in findings]
        runs = [part["keys"] for part in parts]
        duplicates = segments.Spill(decision.with_name(decision.name + ".spill"), _DUPLICATE)
        for cut in arrays.ranges([run["key"] for run in runs]):
            pieces = [run[piece] for run, piece in zip(runs, cut, strict=True)]
            keys = np.concatenate(pieces) if pieces else np.empty(0, _KEY)
            owners = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
            # Parts and documents are in order, so a stable sort keeps the first one first.
            order = np.lexsort((keys["low"], keys["key"]))
            keys, owners = keys[order], owners[order]
            same = (keys["key"][1:] == keys["key"][:-1]) & (keys["low"][1:] == keys["low"][:-1])
            starts = np.flatnonzero(np.r_[True, ~same]) if len(keys) else np.empty(0, np.int64)
            first = np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
            later = np.flatnonzero(first != np.arange(len(keys)))
            records = np.empty(len(later), _DUPLICATE)
            records["document"] = keys["document"][later]
            records["part"] = owners[first[later]]
            records["first"] = keys["document"][first[later]]
            duplicates.add(owners[later], records)
        details = (
            {
                n: f"same as {place}"
                for n, place in segments.duplicates_of_part(duplicates.read_part(part), parts)
            }
            for part in range(len(parts))
        )
        segments.write_dropped(decision, details)
        duplicates.remove()

    def judge(self, decision: Path, part: int) -> Filter:
        return segments.drop(decision, part, "exact duplicate")
