"""Records of XML dumps: each cut out of the stream and parsed on its own.

Nothing but a record reaches the parser, so a broken one spoils no other, memory is bounded by
the longest one allowed, and a document type, with whatever entities it defines, is never read.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from xml.etree import ElementTree

from llamac.data.formats.streams import chunks
from llamac.runtime.data.sources import Skipped

RECORD_BYTES = 1 << 24  # MediaWiki allows pages of 2 MB, StackExchange posts of 30,000 characters


def records(
    path: str, start: bytes, end: bytes, skipped: Skipped
) -> Iterator[tuple[int, ElementTree.Element]]:
    """(line, element) of what lies between `start` and `end`, both included. In XML text neither
    can occur otherwise: `start` begins with `<`, and so does `end`, unless no tag lies between."""
    found = False
    for line, data in _frames(path, start, end, skipped):
        found = True
        try:
            data.decode()
            yield line, ElementTree.fromstring(data)
        except UnicodeDecodeError:
            skipped.add("invalid UTF-8", f"{path}:{line}")
        except ElementTree.ParseError:
            skipped.add("broken XML", f"{path}:{line}")
    if not found:
        skipped.add("no records in file", path)


def _frames(path: str, start: bytes, end: bytes, skipped: Skipped) -> Iterator[tuple[int, bytes]]:
    buffer, line = b"", 1
    begun, looked = False, 0  # within a record; how much of the buffer holds no end of it
    for chunk in utf8_pieces(chunks(path, skipped)):
        buffer += chunk
        at = 0
        while True:
            if not begun:
                found = buffer.find(start, at)
                stop = found if found >= 0 else max(at, len(buffer) - len(start) + 1)
                line += buffer.count(b"\n", at, stop)
                at = stop
                if found < 0:
                    break
                begun, looked = True, at + len(start)
            found = buffer.find(end, looked)
            again = buffer.find(start, looked, found if found >= 0 else len(buffer))
            stop = found + len(end) if found >= 0 else len(buffer)
            if again >= 0:
                skipped.add("broken XML", f"{path}:{line}")
                stop = again
            elif stop - at > RECORD_BYTES:
                skipped.add("record too long", f"{path}:{line}")
            elif found >= 0:
                yield line, buffer[at:stop]
            else:
                looked = max(looked, len(buffer) - max(len(start), len(end)) + 1)
                break
            line += buffer.count(b"\n", at, stop)
            at, begun = stop, False
        buffer, looked = buffer[at:], looked - at
    if begun:
        skipped.add("truncated XML", f"{path}:{line}")


def utf8_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """As it comes, but for UTF-16 with a byte order mark, the other encoding XML may have."""
    decoder = None
    for number, piece in enumerate(pieces):
        if number == 0 and piece[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            decoder = codecs.getincrementaldecoder("utf-16")("replace")
        yield decoder.decode(piece).encode("utf-8", "replace") if decoder else piece
