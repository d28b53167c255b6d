"""WARC and WET files: records, and the HTTP responses in them.

Not fastwarc: it ends without a word at the first record it cannot read, and gives a truncated
one as if it were whole. Reading is a small part of the time that extraction takes.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from llamac.runtime.data.decompress import CHUNK_BYTES, stream
from llamac.runtime.data.skipped import Skipped

RECORD_BYTES = 1 << 24  # Common Crawl cuts pages at 1 or 5 MB
HEADER_BYTES = 1 << 16
_VERSION = re.compile(rb"WARC/\d+\.\d+\r?\n")


@dataclass(frozen=True, slots=True)
class Record:
    """number: from 1. headers: by name in lower case. body: the block, as it lies in the file."""

    number: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    content_type: str
    charset: str | None
    body: bytes


def records(path: str, types: frozenset[str], skipped: Skipped) -> Iterator[Record]:
    """The records of these `WARC-Type`s. After one that is broken, reading goes on at the next
    line that begins a record."""
    number, lost = 0, False
    with stream(path, skipped) as file:
        while line := file.readline(HEADER_BYTES):
            where = f"{path}:{number + 1}"
            if not _VERSION.fullmatch(line):
                if line.strip() and not lost:
                    skipped.add("broken WARC record", where)
                    lost = True
                continue
            number, lost = number + 1, False
            headers = _headers(file)
            length = headers.get("content-length", "") if headers else ""
            if headers is None or not length.isdecimal() or len(length) > 15:
                skipped.add("broken WARC record", where)
                lost = True
                continue
            wanted = headers.get("warc-type", "").lower() in types
            if wanted and int(length) <= RECORD_BYTES:
                body = file.read(int(length))
                if len(body) < int(length):
                    skipped.add("truncated WARC record", where)
                    return
                yield Record(number, headers, body)
            else:
                if wanted:
                    skipped.add("page too long", where)
                if not _skip(file, int(length)):
                    skipped.add("truncated WARC record", where)
                    return


def _skip(file: IO[bytes], size: int) -> bool:
    while size > 0:
        block = file.read(min(size, CHUNK_BYTES))
        if not block:
            return False
        size -= len(block)
    return True


def _headers(file: IO[bytes]) -> dict[str, str] | None:
    """Up to the blank line; None if there are too many or one has no colon."""
    found: dict[str, str] = {}
    size = 0
    while line := file.readline(HEADER_BYTES):
        size += len(line)
        if not line.strip():
            return found
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if not colon or size > HEADER_BYTES:
            return None
        found[name.strip().lower()] = value.strip().strip("<>")
    return None


def response(body: bytes) -> Response | None:
    """What an HTTP response holds, its transfer and content encodings undone; None if it is
    none, or is encoded in a way unknown."""
    file = io.BytesIO(body)
    status = file.readline(HEADER_BYTES).split()
    headers = _headers(file)
    if headers is None or len(status) < 2 or not status[0].startswith(b"HTTP/"):
        return None
    if not status[1].isdigit() or len(status[1]) != 3:
        return None
    content: bytes | None = file.read()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        content = _unchunked(content)
    content = _uncompressed(content, headers.get("content-encoding", "").lower())
    if content is None:
        return None
    kind, _, parameters = headers.get("content-type", "").partition(";")
    charset = re.search(r"""charset\s*=\s*["']?([\w:.-]{1,40})""", parameters, re.I)
    return Response(int(status[1]), kind.strip().lower(), charset and charset[1], content)


def _unchunked(data: bytes) -> bytes:
    """The chunks joined. As it was, if it is not in chunks: crawlers keep the header either way."""
    pieces, at = [], 0
    while match := _CHUNK.match(data, at):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(data[match.end() : match.end() + size])
        at = match.end() + size + 2
    return data


_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,7})(?:;[^\r\n]{0,200})?\r\n")


def _uncompressed(data: bytes, encoding: str) -> bytes | None:
    """As it was, if it does not begin as gzip does: Common Crawl undoes it, others do not."""
    if encoding in ("gzip", "x-gzip", "deflate"):
        if not data.startswith((b"\x1f\x8b", b"\x78")):
            return data
        try:
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, RECORD_BYTES)
        except zlib.error:
            return None
    return data if encoding in ("", "identity") else None
