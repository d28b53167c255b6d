"""WARC, WET and ARC files: their records.

Not fastwarc: it ends without a word at the first record it cannot read, and gives a truncated
one as if it were whole. Reading is a small part of the time that extraction takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from llamac.data.formats.http import HEADER_BYTES, headers
from llamac.runtime.data.decompress import CHUNK_BYTES
from llamac.runtime.data.skipped import Skipped

RECORD_BYTES = 1 << 24  # Common Crawl cuts pages at 1 or 5 MB
_VERSION = re.compile(rb"WARC/\d+\.\d+[ \t]*\r?\n")


@dataclass(frozen=True, slots=True)
class Record:
    """number: from 1. kind: `WARC-Type`. content_type: as declared. body: the block, as it lies
    in the file."""

    number: int
    kind: str
    url: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Head:
    """What comes before a block of `size` bytes."""

    kind: str
    url: str
    content_type: str
    size: int


def warc_records(
    file: IO[bytes], path: str, types: frozenset[str], skipped: Skipped
) -> Iterator[Record]:
    """The records of these `WARC-Type`s. After one that is broken, reading goes on at the next
    line that begins a record."""

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
) -> Iterator[Record]:
    """As `warc_records`, of an ARC file, version 1 or 2. What came by HTTP is of type `response`,
    notes of the crawler are `metadata`, all else is `resource`."""
    return _records(file, path, "ARC", _arc_head, _arc_head, types, skipped)


def _arc_head(line: bytes) -> _Head | None:
    """A URL record: URL, address, date, type, then in version 2 status, checksum, location,
    offset and file name, then the length. Only the URL may have spaces in it."""
    words = line.decode("utf-8", "replace").rstrip("\r\n").split(" ")
    size = words[-1]
    if not size.isdecimal() or len(size) > 15:
        return None
    for at in (len(words) - 4, len(words) - 9):  # of the address
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
) -> Iterator[Record]:
    number, lost = 0, False
    while line := file.readline(HEADER_BYTES):
        where = f"{path}:{number + 1}"
        if not begins(line):
            if line.strip() and not lost:
                skipped.add(f"broken {name} record", where)
                lost = True
            continue
        found = head(line)
        number, lost = number + 1, found is None
        if found is None:
            skipped.add(f"broken {name} record", where)
        elif found.kind in types and found.size <= RECORD_BYTES:
            body = file.read(found.size)
            if len(body) < found.size:
                skipped.add(f"truncated {name} record", where)
                return
            yield Record(number, found.kind, found.url, found.content_type, body)
        else:
            if found.kind in types:
                skipped.add("page too long", where)
            if not _skip(file, found.size):
                skipped.add(f"truncated {name} record", where)
                return


def _skip(file: IO[bytes], size: int) -> bool:
    while size > 0:
        block = file.read(min(size, CHUNK_BYTES))
        if not block:
            return False
        size -= len(block)
    return True
