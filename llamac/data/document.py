"""Documents, and the interfaces of the stages that keep, change or reject them.

A reader turns a file into documents. A stage keeps a document, possibly changed, or rejects it for
a reason that is counted. There are two kinds of stage: a `Filter` judges each document alone; a
`Survey` sees a whole source before it judges any document, as deduplication must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(slots=True)
class Document:
    """One document of a source.

    text: valid Unicode. file, line: position of its beginning; line counts lines or records from 1.
    meta: JSON values such as url, title, language, licence, score. tokens: ids that the text was
    decoded from; None if there are none, or a stage has changed the text.
    """

    text: str
    file: str
    line: int
    meta: dict[str, Any] = field(default_factory=dict)
    tokens: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Result of a stage that rejects a document.

    reason: a few words without values, by which rejections are counted. detail: the deciding
    value, such as "0.43 < 0.50".
    """

    reason: str
    detail: str = ""


Filter = Callable[[Document], Document | Rejected]
"""Function that returns the document, which it may change in place, or rejects it.

Deterministic.
"""


class Survey(Protocol):
    """Stage that sees a whole source before it judges documents, in three steps.

    The parts of the source are scanned in parallel, their findings are merged in memory that does
    not grow with the corpus, and each part is judged by the merged decision. The files are the same
    whatever the order in which parts were scanned.
    """

    def scan(self, documents: Iterable[Document], findings: Path) -> None:
        """Read the documents of one part, in order, and write its findings to that file."""
        ...

    def merge(self, findings: Sequence[Path], decision: Path) -> None:
        """Combine the findings of all parts, in the parts' order, into the file `decision`."""
        ...

    def judge(self, decision: Path, part: int) -> Filter:
        """Return a filter for part number `part`, to be called on its documents once, in order."""
        ...
