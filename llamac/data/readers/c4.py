"""Read CommonCrawl files for C4: every line of a page is kept, since C4's own rules judge lines.

meta: as in `commoncrawl`.
"""

from __future__ import annotations

from collections.abc import Iterator

from llamac.data.document import Document
from llamac.data.readers.commoncrawl import ENDINGS as ENDINGS
from llamac.data.readers.commoncrawl import pages
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield the pages in a file or directory with all their text, including navigation.

    source: unused. See `commoncrawl.pages`.
    """
    return pages(path, False, skipped)
