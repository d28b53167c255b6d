"""Read books, one text file each, without Project Gutenberg's header and licence.

meta: title, from the file's head or its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from llamac.data.document import Document
from llamac.data.formats.decoding import decode_text
from llamac.data.formats.trees import entries
from llamac.runtime.data.sources.decompress import stem
from llamac.runtime.data.sources.records import accept_text
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source

ENDINGS = (".txt", ".md", ".text", ".tar", ".tgz")
HEAD, TAIL = 60_000, 120_000  # characters at either end in which Gutenberg's notices begin

_START = re.compile(
    r"^[ \t]*(?:\*{3}[ ]*START OF (?:THE|THIS) PROJECT GUTENBERG[^\n]*(?:\n[^\n]+){0,3}?\*{3}"
    r"|\*END[* ]*THE SMALL PRINT[^\n]*)[^\n]*\n",
    re.M | re.I,
)
_END = re.compile(
    r"^[ \t]*(?:\*{3}[ ]*END OF (?:THE|THIS) PROJECT GUTENBERG"
    r"|End of (?:the |this )?Project Gutenberg)",
    re.M | re.I,
)
_CREDIT = re.compile(
    r"\s*(?:E-?text |This e-?book was )?(?:Produced|Prepared|Transcribed) by [^\n]*(?:\n[^\n]+)*\n",
    re.I,
)
_ENCODING = re.compile(rb"^Character set encoding:[ ]*+([A-Za-z0-9_-]{3,20})", re.M | re.I)
_TITLE = re.compile(r"^Title:[ ]*(\S[^\n]*)$", re.M)


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield the book in a file, or those in a directory or tar archive (.txt, .md or .text)."""
    for entry in entries(path, skipped, lambda name: stem(name).endswith(ENDINGS[:3])):
        where = f"{entry.file}:{entry.line}"
        declared = _ENCODING.search(entry.data, 0, HEAD)
        text = decode_text(entry.data, [declared[1].decode()] if declared else ())
        if text is None:
            skipped.add("unknown encoding", where)
            continue
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        body, title = book(text)
        if accept_text(body, where, skipped):
            name = os.path.splitext(os.path.basename(stem(entry.name)))[0]
            yield Document(body, entry.file, entry.line, {"title": title or name})


def book(text: str) -> tuple[str, str]:
    """Return (text without Project Gutenberg's notices, title or "").

    The title is that of Project Gutenberg's header, if the text has one.
    """
    starts = list(_START.finditer(text, 0, HEAD))  # old files have both notices
    start = starts[-1] if starts else None
    title = _TITLE.search(text, 0, start.start()) if start else None
    first = start.end() if start else 0
    if start and (credit := _CREDIT.match(text, first)):
        first = credit.end()
    end = _END.search(text, max(first, len(text) - TAIL))
    body = text[first : end.start()] if end else text[first:]
    return body.strip("\n") + "\n", title[1].strip() if title else ""
