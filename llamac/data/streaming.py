"""Stream a source's documents through its reader and filters, but not its surveys.

This is used to train or measure models on a source that is not prepared yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llamac.data.document import Document, Filter, Rejected
from llamac.data.readers import reader_for, validated_inputs
from llamac.data.stages import build
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.runtime.data.sources.source_documents import documents
from llamac.spec.data import CONVERSATIONS, Source


def stream_documents(source: Source) -> Iterator[Document]:
    """Yield the documents of a source's files until they have its `max_bytes` of text.

    What the reader skips is not reported. Raises SourceError, or InputError for files that the
    reader does not support.
    """
    read, skipped, seen = reader_for(source.kind), Skipped(), 0
    for path in validated_inputs(source):
        for document in read(path, source, skipped):
            if source.max_bytes is not None and seen >= source.max_bytes:
                return
            seen += len(document.text.encode())
            yield document


def filters(source: Source, end: int | None = None) -> list[Filter]:
    """Return the filters among the first `end` stages, without the surveys; None means all stages.

    Raises StageError if a stage lacks a file or package.
    """
    built = (build(stage, source) for stage in source.stage[:end])
    return [stage for stage in built if callable(stage)]


def apply_filters(documents: Iterable[Document], filters: Sequence[Filter]) -> Iterator[Document]:
    """Yield the documents that pass all filters, as the filters change them."""
    for document in documents:
        outcome: Document | Rejected = document
        for judge in filters:
            outcome = judge(document)
            if isinstance(outcome, Rejected):
                break
            document = outcome
        if not isinstance(outcome, Rejected):
            yield document


def texts(source: Source) -> Iterator[str]:
    """Yield the texts of a source as they would be tokenised, except that surveys are left out."""
    if not source.needs_cleaning and source.kind not in CONVERSATIONS:
        return documents(source.model_dump())
    return (document.text for document in apply_filters(stream_documents(source), filters(source)))
