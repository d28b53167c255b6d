"""Readers of raw dumps: one module per kind of source, which yields documents.

A reader does not stop at a bad file or record: it counts it in a `Skipped` and continues. Its
memory does not grow with the file. Files of records, such as `.jsonl` or `.parquet`, are read the
same way for every kind.

A reader's module defines `read`, a `Reader`, and optionally `ENDINGS`: the accepted endings of file
names, in lower case and without a compression suffix. Files of other names are then refused.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import get_args

from llamac.data.document import Document
from llamac.data.formats import wikitext
from llamac.data.readers import files
from llamac.runtime.data.sources.conversations import check_inputs
from llamac.runtime.data.sources.decompress import stem
from llamac.runtime.data.sources.input_files import RECORDS, file_list, unknown_name
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.runtime.errors import SourceError, add_source_name
from llamac.spec.data import CONVERSATIONS, PYTHON, Source

# Scripts outside this tree import `plain` from its former place.
sys.modules[f"{__name__}.wikitext"] = wikitext

Reader = Callable[[str, Source, Skipped], Iterator[Document]]
"""Function of (path, source, skipped) that yields documents; reads a directory for some kinds."""

KINDS = tuple(k for k in get_args(Source.model_fields["kind"].annotation) if k not in PYTHON)
"""Kinds of source that read files."""

# Page range in the name of a part of a Wikipedia dump.
_PAGES = re.compile(r"(?<=\.xml)-p\d+p\d+(?:-[\w-]*)?$")


def reader_for(kind: str) -> Reader:
    """Return the reader of a source's kind, importing its module on first use.

    It reads files of records by their text field, except for conversations. Raises SourceError for
    a kind without a reader.
    """
    if kind not in KINDS:
        raise SourceError(f"no reader for kind {kind!r}; known kinds: {', '.join(KINDS)}")
    kind_reader: Reader = importlib.import_module(f"llamac.data.readers.{kind}").read

    def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
        as_text = files.has_records(path) and kind not in CONVERSATIONS
        return (files.read if as_text else kind_reader)(path, source, skipped)

    return read


def input_paths(source: Source) -> list[str]:
    """Return the files and directories that a source is read from, in order.

    Raises InputError if a path matches nothing, or a file whose name the reader does not know.
    """
    module = importlib.import_module(f"llamac.data.readers.{source.kind}")
    endings: tuple[str, ...] = getattr(module, "ENDINGS", ())
    paths = file_list(source.toml_values())
    for path in paths if endings else ():
        name = _PAGES.sub("", stem(path))
        if not name.endswith(endings) and not files.has_records(path):
            raise unknown_name(path, source.kind, (*endings, *RECORDS), "paths")
    return paths


def validated_inputs(source: Source) -> list[str]:
    """Return `input_paths`, after checking the first records of a few files for the needed fields.

    Raises InputError with the source's name, or SourceError if a package is missing.
    """
    with add_source_name(source.name):
        paths = input_paths(source)
        check_inputs(source.kind, filter(files.has_records, paths), source.text_field)
    return paths
