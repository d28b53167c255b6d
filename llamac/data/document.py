"""What flows through preparation: documents, and what becomes of them.

A reader turns a file into documents. A stage keeps a document, changed or not, or rejects it for
a reason that is counted. Stages come in two forms: a `Filter` judges each document on its own; a
`Survey` must have seen all of a source before it judges any, as deduplication does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(slots=True)
class Document:
    """text: valid Unicode. file, line: where it begins; line counts lines or records from 1.
    meta: JSON values known of it, such as url, title, language, licence, score. tokens: what the
    text was decoded from; None once a stage has changed it."""

    text: str
    file: str
    line: int
    meta: dict[str, Any] = field(default_factory=dict)
    tokens: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """reason: a few words without values, by which it is counted. detail: what decided, such as
    `0.43 < 0.50`."""

    reason: str
    detail: str = ""


Filter = Callable[[Document], Document | Rejected]
"""Judges a document alone, the same on every call; may change it in place."""


class Survey(Protocol):
    """Three steps, each a file: parts are scanned on their own, in parallel; what they found is
    merged, in memory that does not grow with the corpus; each part is judged by the outcome.

    The same parts give the same bytes, whatever the order in which they were scanned.
    """

    def scan(self, documents: Iterable[Document], found: Path) -> None:
        """Writes what a part's documents, in order, add to the decision."""
        ...

    def merge(self, found: Sequence[Path], decided: Path) -> None:
        """Writes the decision from all parts' findings, in order of the parts."""
        ...

    def judge(self, decided: Path, part: int) -> Filter:
        """A filter that will be given the documents of that part, each once, in order."""
        ...
