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
    """Return the survey that removes runs of `stage.sentences` sentences that occurred before.

    A document that loses some, and keeps fewer than `stage.min_sentences`, is rejected.
    """
    size = stage.sentences

    def keys(text: str) -> Keys:
        """Return a 64-bit hash of each run of `size` sentences, line by line, as uint64 [runs].

        A shorter line is one run. The hash is 0 for a run without a letter or digit.
        """
        hash64 = need("xxhash").xxh3_64_intdigest
        hashes = []
        for line in text.splitlines():
            for run in _runs(split_sentences(line), size):
                joined = "\n".join(run).lower()
                has_words = any(map(str.isalnum, joined))
                hashes.append(hash64(joined.encode()) if has_words else 0)
        return np.array(hashes, np.uint64)

    def without(text: str, repeated_mask: NDArray[np.bool_]) -> str:
        marks, remaining = iter(repeated_mask.tolist()), []
        for line in text.splitlines():
            sentences = split_sentences(line)
            removed: set[int] = set()
            for begin, _ in enumerate(_runs(sentences, size)):
                if next(marks):
                    removed.update(range(begin, begin + size))
            rest = [sentence for at, sentence in enumerate(sentences) if at not in removed]
            if rest or not sentences:
                remaining.append(line if not removed else " ".join(rest))
        rest = "\n".join(remaining).strip("\n")
        count = sum(len(split_sentences(line)) for line in rest.splitlines())
        return rest if count >= stage.min_sentences else ""

    return Repeats(0, True, keys, without, unit="sentence run")


def _runs(sentences: list[str], size: int) -> list[list[str]]:
    """Return every run of `size` sentences; a line with fewer is one run."""
    return [
        sentences[at : at + size]
        for at in range(max(len(sentences) - size + 1, min(len(sentences), 1)))
    ]
