"""What a reader makes of files written by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from llamac.data.document import Document
from llamac.data.readers import reader_for
from llamac.runtime.data.sources import Skipped
from llamac.spec.data import Source


def read(kind: str, path: Path, **options: str) -> tuple[list[Document], Counter[str]]:
    """(documents, how often what was skipped)."""
    skipped = Skipped()
    source = Source.model_validate(
        {"name": "test", "kind": kind, "share": 1, "paths": [str(path)], **options}
    )
    return list(reader_for(kind)(str(path), source, skipped)), skipped.counts


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
