"""Stream a source's documents through its reader and filters, without surveys.

Used to train or measure models on a source before it is prepared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llamac.data.document import Document, Filter, Rejected
from llamac.data.readers import checked_inputs, reader_for
from llamac.data.stages import build
from llamac.runtime.data.sources.skipped import Skipped
from llamac.runtime.data.sources.source_documents import documents
from llamac.spec.data import CONVERSATIONS, Source


def stream_documents(source: Source) -> Iterator[Document]:
    """Yield the documents that the source's reader finds, up to `max_bytes`. Raises SourceError."""
    read, skipped, seen = reader_for(source.kind), Skipped(), 0
    for path in checked_inputs(source):
        for document in read(path, source, skipped):
            if source.max_bytes is not None and seen >= source.max_bytes:
                return
            seen += len(document.text.encode())
            yield document


def filters(source: Source, end: int | None = None) -> list[Filter]:
    """Return the stages before number `end` that judge documents alone. Raises StageError."""
    built = (build(stage, source) for stage in source.stage[:end])
    return [stage for stage in built if callable(stage)]


def filtered(found: Iterable[Document], filters: Sequence[Filter]) -> Iterator[Document]:
    """Yield the documents that pass all filters."""
    for document in found:
        made: Document | Rejected = document
        for judge in filters:
            made = judge(document)
            if isinstance(made, Rejected):
                break
            document = made
        if not isinstance(made, Rejected):
            yield document


def texts(source: Source) -> Iterator[str]:
    """Yield the source's text as it would be tokenised, but without surveys (deduplication)."""
    if not source.cleaned and source.kind not in CONVERSATIONS:
        return documents(source.model_dump())
    return (document.text for document in filtered(stream_documents(source), filters(source)))
