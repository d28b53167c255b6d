"""A source's documents as they come, for what is learnt or measured of them before they are
prepared: through its readers and filters, without what must have seen the whole source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llamac.data.document import Document, Filter, Rejected
from llamac.data.readers import checked_inputs, reader_for
from llamac.data.stages import build
from llamac.runtime.data import sources
from llamac.runtime.data.skipped import Skipped
from llamac.spec.data import Source


def files(source: Source) -> list[str]:
    return checked_inputs(source)


def documents(source: Source) -> Iterator[Document]:
    """What the reader of its kind finds, `max_bytes` of it at most. Raises SourceError."""
    read, skipped, seen = reader_for(source.kind), Skipped(), 0
    for path in files(source):
        for document in read(path, source, skipped):
            if source.max_bytes is not None and seen >= source.max_bytes:
                return
            seen += len(document.text.encode())
            yield document


def filters(source: Source, end: int | None = None) -> list[Filter]:
    """Those of its stages, up to number `end`, that judge documents alone. Raises StageError."""
    built = (build(stage, source) for stage in source.stage[:end])
    return [stage for stage in built if callable(stage)]


def kept(found: Iterable[Document], filters: Sequence[Filter]) -> Iterator[Document]:
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
    """Its text as it would be tokenised, but for deduplication and the like."""
    if not source.cleaned:
        return sources.documents(source.model_dump())
    return (document.text for document in kept(documents(source), filters(source)))
