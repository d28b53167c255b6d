"""Readers: a file of a raw dump → documents, one module for each kind of source.

A reader never stops at a bad file or record: it counts it in a `Skipped` and goes on. Its memory
does not grow with the file. What a dump already gives as text, in `.jsonl` or `.parquet`, is read
the same way whatever the kind.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import get_args

from llamac.data.document import Document
from llamac.data.readers.files import is_table, tables
from llamac.runtime.data.sources import Skipped, SourceError
from llamac.spec.data import PYTHON, Source

Reader = Callable[[str, Source, Skipped], Iterator[Document]]
"""(path of a file, or of a directory where the kind has trees; source; what is left out)."""

KINDS = tuple(k for k in get_args(Source.model_fields["kind"].annotation) if k not in PYTHON)
"""Those of a spec that read files."""


def reader_for(kind: str) -> Reader:
    """The reader of a source's kind; its module, and what that needs, is imported only now.

    SourceError: a kind without a reader.
    """
    if kind not in KINDS:
        raise SourceError(f"no reader for kind {kind!r}: there are {', '.join(KINDS)}")
    own: Reader = importlib.import_module(f"llamac.data.readers.{kind}").read

    def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
        return (tables if is_table(path) else own)(path, source, skipped)

    return read
