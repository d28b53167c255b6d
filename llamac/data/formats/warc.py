"""Read the records of WARC, WET and ARC files.

fastwarc is not used: it stops silently at the first unreadable record and returns truncated records
as if they were complete. Reading takes a small part of the time of extraction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from llamac.data.formats.http import HEADER_BYTES, headers
from llamac.runtime.data.sources.decompress import CHUNK_BYTES
from llamac.runtime.data.sources.skipped_records import Skipped

RECORD_BYTES = 1 << 24  # longest page: Common Crawl cuts pages at 1 or 5 MB
_VERSION = re.compile(rb"WARC/\d+\.\d+[ \t]*\r?\n")


@dataclass(frozen=True, slots=True)
class WarcRecord:
    """Record of a web archive.

    number: position in the file, from 1. kind: `WARC-Type` in lower case. url: target address, ""
    if there is none. content_type: as declared by the record. body: the record's block, not
    decoded.
    """

    number: int
    kind: str
    url: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Head:
    """Header of a record whose block has `size` bytes."""

    kind: str
    url: str
    content_type: str
    size: int


def warc_records(
    file: IO[bytes], path: str, types: frozenset[str], skipped: Skipped
) -> Iterator[WarcRecord]:
    """Yield the records of a WARC file, decompressed, whose type is in `types`.

    file: decompressed stream. path: its name, for `skipped`. types: `WARC-Type` values in lower
    case. Damaged and too long records are counted in `skipped`; after a damaged one, reading
    continues at the next line that begins a record.
    """

    def head(line: bytes) -> _Head | None:
        fields = headers(file) or {}
        size = fields.get("content-length", "")
        if not size.isdecimal() or len(size) > 15:
            return None
        url = fields.get("warc-target-uri", "").removeprefix("<").removesuffix(">")
        kind, content_type = fields.get("warc-type", "").lower(), fields.get("content-type", "")
        return _Head(kind, url, content_type, int(size))

    return _records(file, path, "WARC", _VERSION.fullmatch, head, types, skipped)


def arc_records(
    file: IO[bytes], path: str, types: frozenset[str], skipped: Skipped
) -> Iterator[WarcRecord]:
    """Yield the records of an ARC file, version 1 or 2, as `warc_records` does.

    Types follow from the URL: HTTP responses are `response`, the crawler's own records `metadata`,
    others `resource`.
    """
    return _records(file, path, "ARC", _arc_head, _arc_head, types, skipped)


def _arc_head(line: bytes) -> _Head | None:
    """Parse a URL record: URL, address, date, type, …, length; version 2 has five fields more.

    Only the URL may contain spaces.
    """
    words = line.decode("utf-8", "replace").rstrip("\r\n").split(" ")
    size = words[-1]
    if not size.isdecimal() or len(size) > 15:
        return None
    for at in (len(words) - 4, len(words) - 9):  # longest address
        url = " ".join(words[: max(at, 0)])
        if ":" in url and _DATE.fullmatch(words[at + 1]):
            kind = _SCHEMES.get(url.partition(":")[0].lower(), "resource")
            return _Head(kind, url, words[at + 2], int(size))
    return None


_DATE = re.compile(r"(?:19|20)\d{12}")
_SCHEMES = {"http": "response", "https": "response", "filedesc": "metadata", "dns": "metadata"}


def _records(
    file: IO[bytes],
    path: str,
    name: str,
    begins: Callable[[bytes], object],
    head: Callable[[bytes], _Head | None],
    types: frozenset[str],
    skipped: Skipped,
) -> Iterator[WarcRecord]:
    number, lost = 0, False
    while line := file.readline(HEADER_BYTES):
        where = f"{path}:{number + 1}"
        if not begins(line):
            if line.strip() and not lost:
                skipped.add(f"broken {name} record", where)
                lost = True
            continue
        header = head(line)
        number, lost = number + 1, header is None
        if header is None:
            skipped.add(f"broken {name} record", where)
        elif header.kind in types and header.size <= RECORD_BYTES:
            body = file.read(header.size)
            if len(body) < header.size:
                skipped.add(f"truncated {name} record", where)
                return
            yield WarcRecord(number, header.kind, header.url, header.content_type, body)
        else:
            if header.kind in types:
                skipped.add("page too long", where)
            if not _skip(file, header.size):
                skipped.add(f"truncated {name} record", where)
                return


def _skip(file: IO[bytes], size: int) -> bool:
    while size > 0:
        block = file.read(min(size, CHUNK_BYTES))
        if not block:
            return False
        size -= len(block)
    return True
