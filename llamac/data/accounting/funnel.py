"""Count the documents that enter and leave each cleaning step, and sample them.

Counts and samples of parts can be merged in any order. The samples are the documents with the
lowest hashes, so they are unbiased and the same on every run.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

from llamac.data.document import Document, Rejected

SAMPLES = 6  # samples kept of each step and kind
EXCERPT = 600  # characters of a sample

Amount = list[int]
"""[documents, bytes of UTF-8]; for the input of a reader, [inputs, bytes on disk]."""


@dataclass
class StepCounts:
    """Counts of one step: the reader, named `read`, or a stage.

    entered, left: amounts before and after the step. changed: number of documents kept with a
    changed text. rejected: amounts by reason. samples: at most `SAMPLES` excerpts by reason of
    rejection; kept documents are under "", changed ones under "changed". Each has `rank` (the hash
    that chose it), `where` and `text`, and `detail` or `before` if there is one.
    """

    name: str
    entered: Amount = field(default_factory=lambda: [0, 0])
    left: Amount = field(default_factory=lambda: [0, 0])
    changed: int = 0
    rejected: dict[str, Amount] = field(default_factory=dict)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def keep(self, document: Document, size: int, sampled: bool = True) -> None:
        """Count a kept document. size: bytes of its text. sampled: whether it may be sampled."""
        _add(self.left, size)
        if sampled:
            self._sample("", document)

    def reject(self, document: Document, size: int, rejected: Rejected) -> None:
        """Count and sample a rejected document. size: bytes of its text."""
        _add(self.rejected.setdefault(rejected.reason, [0, 0]), size)
        self._sample(rejected.reason, document, detail=rejected.detail)

    def change(self, document: Document, before: str) -> None:
        """Count and sample a document whose text was changed. before: its previous text."""
        self.changed += 1
        self._sample("changed", document, before=before)

    def _sample(self, kind: str, document: Document, detail: str = "", before: str = "") -> None:
        where = f"{document.file}:{document.line}"
        name = f"{self.name}\0{kind}\0{where}".encode(errors="surrogateescape")
        rank = hashlib.blake2b(name, digest_size=8).hexdigest()
        samples = self.samples.setdefault(kind, [])
        if len(samples) == SAMPLES and rank >= samples[-1]["rank"]:
            return
        sample: dict[str, Any] = {"rank": rank, "where": encodable(where)}
        sample |= {"detail": detail[:EXCERPT]} if detail else {}
        if before:
            sample |= dict(zip(("before", "text"), _excerpts(before, document.text), strict=True))
        else:
            sample["text"] = document.text[:EXCERPT]
        samples.append(sample)
        samples.sort(key=lambda sample: sample["rank"])
        del samples[SAMPLES:]

    def add(self, other: StepCounts) -> None:
        """Add the counts and samples of the same step on another part."""
        for mine, theirs in ((self.entered, other.entered), (self.left, other.left)):
            mine[:] = [a + b for a, b in zip(mine, theirs, strict=True)]
        self.changed += other.changed
        for reason, (documents, size) in other.rejected.items():
            mine = self.rejected.setdefault(reason, [0, 0])
            mine[:] = [mine[0] + documents, mine[1] + size]
        for kind, samples in other.samples.items():
            merged = [*self.samples.get(kind, []), *samples]
            self.samples[kind] = sorted(merged, key=lambda sample: sample["rank"])[:SAMPLES]


def _add(amount: Amount, size: int) -> None:
    amount[0] += 1
    amount[1] += size


def _excerpts(before: str, after: str) -> tuple[str, str]:
    """Return an excerpt of both texts, from shortly before their first difference."""
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    start = max(0, same - EXCERPT // 4)
    return before[start : start + EXCERPT], after[start : start + EXCERPT]


def encodable(text: str) -> str:
    """Return `text` with lone surrogates, which UTF-8 cannot encode, replaced by `?`."""
    return text.encode(errors="replace").decode()


def to_json(rows: list[StepCounts]) -> list[dict[str, Any]]:
    """Return step counts as JSON objects, which `from_json` reads."""
    return [asdict(row) for row in rows]


def from_json(rows: list[dict[str, Any]]) -> list[StepCounts]:
    """Restore step counts from JSON objects. Raises TypeError for unknown or missing keys."""
    return [StepCounts(**row) for row in rows]


def total(parts: list[list[StepCounts]]) -> list[StepCounts]:
    """Sum the counts of all parts, step by step.

    A part that is unfinished may have counts of the first steps only.
    """
    rows: list[StepCounts] = []
    for part in parts:
        for index, row in enumerate(part):
            if index == len(rows):
                rows.append(StepCounts(row.name))
            rows[index].add(row)
    return rows
