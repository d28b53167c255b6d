"""Define documents, and the interfaces of the stages that keep, change or reject them.

A reader turns a file into documents. A stage keeps a document, changed or not, or rejects it for
a reason that is counted. Stages come in two forms: a `Filter` judges each document on its own; a
`Survey` sees all of a source before it judges any document, as deduplication must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(slots=True)
class Document:
    """One document of a source.

    text: valid Unicode. file, line: where it begins; line counts lines or records from 1. meta:
    JSON values such as url, title, language, licence, score. tokens: the ids that the text was
    decoded from; None once a stage has changed the text.
    """

    text: str
    file: str
    line: int
    meta: dict[str, Any] = field(default_factory=dict)
    tokens: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A stage's verdict against a document.

    reason: a few words without values; rejections are counted by it. detail: the value that
    decided, such as `0.43 < 0.50`.
    """

    reason: str
    detail: str = ""


Filter = Callable[[Document], Document | Rejected]
"""Judges one document, deterministically; may change it in place."""


class Survey(Protocol):
    """A stage in three steps, each of which writes or reads a file.

    Parts are scanned in parallel; their findings are merged, in memory that does not grow with the
    corpus; each part is judged by the merged decision. The same parts give the same bytes, whatever
    the order in which they were scanned.
    """

    def scan(self, documents: Iterable[Document], found: Path) -> None:
        """Read one part's documents, in order, and write its findings to the file `found`."""
        ...

    def merge(self, found: Sequence[Path], decided: Path) -> None:
        """Combine the findings of all parts, in order of the parts, into one decision file."""
        ...

    def judge(self, decided: Path, part: int) -> Filter:
        """Return a filter for the documents of that part, to be called once on each, in order."""
        ...
