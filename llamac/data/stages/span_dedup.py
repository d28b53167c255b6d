"""Remove runs of sentences that occurred before in the source (C4, section 2.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llamac.data.document import Survey
from llamac.data.stages.common.need import need
from llamac.data.stages.common.sentences import split_sentences
from llamac.data.stages.line_dedup import Keys, Repeats
from llamac.spec.stages import SpanDedup


def build(stage: SpanDedup) -> Survey:
    size = stage.sentences

    def keys(text: str) -> Keys:
        """Return a key for each run, line after line; 0 for runs without a letter or digit."""
        hash64 = need("xxhash").xxh3_64_intdigest
        found = []
        for line in text.splitlines():
            for run in _runs(split_sentences(line), size):
                joined = "\n".join(run).lower()
                worded = any(map(str.isalnum, joined))
                found.append(hash64(joined.encode()) if worded else 0)
        return np.array(found, np.uint64)

    def without(text: str, repeated_mask: NDArray[np.bool_]) -> str:
        marks, remaining = iter(repeated_mask.tolist()), []
        for line in text.splitlines():
            found = split_sentences(line)
            removed: set[int] = set()
            for begin, _ in enumerate(_runs(found, size)):
                if next(marks):
                    removed.update(range(begin, begin + size))
            left = [sentence for at, sentence in enumerate(found) if at not in removed]
            if left or not found:
                remaining.append(line if not removed else " ".join(left))
        left = "\n".join(remaining).strip("\n")
        count = sum(len(split_sentences(line)) for line in left.splitlines())
        return left if count >= stage.min_sentences else ""

    return Repeats(0, True, keys, without, unit="sentence run")


def _runs(found: list[str], size: int) -> list[list[str]]:
    """Return every run of `size` sentences; a line with fewer is one run."""
    return [found[at : at + size] for at in range(max(len(found) - size + 1, min(len(found), 1)))]
