"""Split a source into head, middle and tail by perplexity (CCNet, Wenzek et al. 2019, 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamac.data.document import Document, Filter, Rejected, Survey
from llamac.data.stages.common import arrays, segments
from llamac.data.stages.common.need import file_bytes, require_readable, sha256
from llamac.data.stages.common.ngram_model import load_model, perplexity
from llamac.spec.stages import Perplexity

HELP = "`llamac data classifier SPEC` trains it"  # hint if the model is missing


def build(stage: Perplexity) -> Survey:
    """Return the survey that keeps the buckets `stage.keep` of head, middle and tail.

    It records perplexity and bucket in `meta`. Raises StageError if the language model cannot be
    read.
    """
    require_readable(stage.model, HELP)
    return _Perplexity(stage)


def facts(stage: Perplexity) -> dict[str, str]:
    """Return the sha256 of the language model. Raises StageError if it cannot be read."""
    return {"sha256": sha256(file_bytes(stage.model, HELP))}


class _Perplexity:
    def __init__(self, stage: Perplexity) -> None:
        self.stage = stage

    def scan(self, documents: Iterable[Document], findings: Path) -> None:
        model = load_model(Path(self.stage.model))
        scores = [perplexity(model, document.text) for document in documents]
        arrays.save(findings, {"scores": np.array(scores, "<f4")})

    def merge(self, findings: Sequence[Path], decision: Path) -> None:
        """Write each part's segment: the two bounds, then its documents' perplexities."""
        parts = [arrays.load(path)["scores"] for path in findings]
        total = sum(map(len, parts))
        ends = (self.stage.head, min(self.stage.head + self.stage.middle, 1.0))
        bounds = np.array([value_of_rank(parts, round(end * total) - 1) for end in ends], "<f4")
        segments.write(decision, (bounds.tobytes() + scores.tobytes() for scores in parts))

    def judge(self, decision: Path, part: int) -> Filter:
        head, middle, *scores = np.frombuffer(segments.read(decision, part), "<f4").tolist()
        numbers = count()

        def judge(document: Document) -> Document | Rejected:
            score = scores[next(numbers)]
            bucket = "head" if score <= head else "middle" if score <= middle else "tail"
            if bucket not in self.stage.keep:
                detail = f"{score:.0f}; head ends at {head:.0f}, middle at {middle:.0f}"
                return Rejected(f"{bucket} by perplexity", detail)
            document.meta["perplexity"] = round(score, 1)
            document.meta["bucket"] = bucket
            return document

        return judge


def value_of_rank(parts: Sequence[NDArray[np.float32]], rank: int) -> float:
    """Return the value of rank `rank`, from 0 (lowest), among the positive values of all arrays.

    parts: arrays float32 [n]. A negative rank gives -1. Positive floats are ordered like their
    bits, so two histograms, of the upper and of the lower 16 bits, suffice instead of sorting.
    """
    if rank < 0:
        return -1.0
    prefix, bits = 0, np.uint32(16)
    counts = np.zeros(1 << 16, np.int64)
    for scores in parts:
        counts += np.bincount(scores.view("<u4") >> bits, minlength=1 << 16)
    prefix = int(np.searchsorted(np.cumsum(counts), rank + 1))
    rank -= int(counts[:prefix].sum())
    counts = np.zeros(1 << 16, np.int64)
    for scores in parts:
        values = scores.view("<u4")
        values = values[values >> bits == prefix] & np.uint32(0xFFFF)
        counts += np.bincount(values, minlength=1 << 16)
    value = prefix << 16 | int(np.searchsorted(np.cumsum(counts), rank + 1))
    return float(np.array(value, np.uint32).view(np.float32))
