"""Read text files, JSON, CSV and parquet as documents, with `runtime.data.sources.records`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from llamac.data.document import Document
from llamac.runtime.data.sources.input_files import format_of
from llamac.runtime.data.sources.records import read_file
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield a document per record, or one for a text file.

    The text of a record is in its field `source.text_field`.
    """
    for text, line, meta in read_file(path, source.text_field, skipped):
        yield Document(text, path, line, meta)


def has_records(path: str) -> bool:
    """Return whether the file is JSON, CSV or parquet, which every kind reads the same way."""
    return format_of(path) not in (None, "text") and not os.path.isdir(path)
