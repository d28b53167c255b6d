"""Cut the records out of XML dumps and parse each on its own.

Only records reach the parser. A damaged record therefore affects no other, memory is bounded by
the largest record allowed, and document types with their entities are never read.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

from llamac.runtime.data.sources.decompress import CHUNK_BYTES, stream
from llamac.runtime.data.sources.skipped import Skipped

# Longest record: MediaWiki allows 2 MB per page, StackExchange 30,000 characters per post.
RECORD_BYTES = 1 << 24


_REFERENCE = re.compile(rb"&#(?:x([0-9A-Fa-f]{1,16})|([0-9]{1,16}));")
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._-]{2,40})["']""")


def records(
    path: str,
    start: bytes,
    end: bytes,
    skipped: Skipped,
    thinned: Callable[[bytes], bytes] | None = None,
) -> Iterator[tuple[int, ElementTree.Element]]:
    """Yield (line, element) for each record between `start` and `end`, both included.

    Neither can occur elsewhere in XML text: `start` begins with `<`, and so does `end`, unless a
    record is a single tag.

    thinned: removes unwanted parts from a record or from its beginning, so that the size limit
    applies to the rest.
    """
    found = False
    for line, data in _frames(path, start, end, skipped, thinned):
        found = True
        try:
            data.decode()
            element, odd = _parsed(data)
            if odd:
                skipped.add("illegal characters", f"{path}:{line}")
            yield line, element
        except UnicodeDecodeError:
            skipped.add("invalid UTF-8", f"{path}:{line}")
        except ElementTree.ParseError:
            skipped.add("broken XML", f"{path}:{line}")
    if not found:
        skipped.add("no records in file", path)


def _parsed(data: bytes) -> tuple[ElementTree.Element, bool]:
    """Parse a record; return it, and whether characters that XML forbids were left out of it.

    Raises ElementTree.ParseError.
    """
    try:
        return ElementTree.fromstring(data), False
    except ElementTree.ParseError:
        allowed = _REFERENCE.sub(lambda found: found[0] if _is_allowed(found) else b"", data)
        allowed = _CONTROLS.sub(b"", allowed)
        if allowed == data:
            raise
        return ElementTree.fromstring(allowed), True


def _is_allowed(reference: re.Match[bytes]) -> bool:
    """Return whether XML 1.0 allows the character that a reference stands for."""
    code = int(reference[1], 16) if reference[1] else int(reference[2])
    if code < 0x20:
        return code in (0x9, 0xA, 0xD)
    return code < 0xD800 or 0xE000 <= code < 0xFFFE or 0x10000 <= code < 0x110000


def _frames(
    path: str,
    start: bytes,
    end: bytes,
    skipped: Skipped,
    thinned: Callable[[bytes], bytes] | None,
) -> Iterator[tuple[int, bytes]]:
    buffer, line = b"", 1
    in_record, looked = (
        False,
        0,
    )  # within a record; length of the buffer that was searched for its end
    taken = 0  # line ends removed from the record by `thinned`
    quoted, quotes = 0, 0  # quotes in the record so far, if `end` ends a tag
    for piece in utf8_pieces(path, skipped):
        buffer += piece
        at, ended = 0, -1  # ended: where the next end is, or that of the buffer, once looked for
        while True:
            if not in_record:
                found = buffer.find(start, at)
                stop = found if found >= 0 else max(at, len(buffer) - len(start) + 1)
                line += buffer.count(b"\n", at, stop)
                at = stop
                if found < 0:
                    break
                in_record, looked = True, at + len(start)
                quoted, quotes = at, 0
            if ended < looked:
                ended = buffer.find(end, looked)
                ended = ended if ended >= 0 else len(buffer)
            found = ended if ended < len(buffer) else -1
            next_start = buffer.find(start, looked, ended)
            if found >= 0 > next_start and not end.startswith(b"<"):
                quotes += buffer.count(b'"', quoted, found)
                quoted = found
                if quotes % 2:  # inside an attribute
                    looked = found + len(end)
                    continue
            stop = found + len(end) if found >= 0 else len(buffer)
            if next_start >= 0:
                skipped.add("broken XML", f"{path}:{line}")
                stop = next_start
            else:
                record = buffer[at:stop]
                if thinned and len(less := thinned(record)) < len(record):
                    record = less
                if len(record) > RECORD_BYTES:
                    skipped.add("record too long", f"{path}:{line}")
                elif found >= 0:
                    yield line, record
                else:
                    taken += buffer.count(b"\n", at) - record.count(b"\n")
                    buffer, at = record, 0
                    looked = max(len(start), len(buffer) - max(len(start), len(end)) + 1)
                    break
            line += buffer.count(b"\n", at, stop) + taken
            at, in_record, taken = stop, False, 0
        buffer, looked, quoted = buffer[at:], looked - at, quoted - at
    if in_record:
        skipped.add("truncated XML", f"{path}:{line}")


def utf8_pieces(path: str, skipped: Skipped) -> Iterator[bytes]:
    """Yield a file's bytes as UTF-8, decoded as its byte order mark or declaration says.

    What is invalid in that encoding becomes invalid UTF-8.
    """
    with stream(path, skipped) as file:
        piece = file.read(CHUNK_BYTES)
        codec = _encoding(piece)
        decoder = codecs.getincrementaldecoder(codec)("invalid UTF-8") if codec else None
        while piece:
            yield decoder.decode(piece).encode("utf-8", "surrogatepass") if decoder else piece
            piece = file.read(CHUNK_BYTES)


codecs.register_error("invalid UTF-8", lambda error: ("\ud800", error.end))  # type: ignore


def _encoding(head: bytes) -> str:
    """Return the encoding of an XML file; "" for UTF-8."""
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if head[:4] in (b"<\0?\0", b"\0<\0?"):
        return "utf-16-le" if head[0] else "utf-16-be"
    declared = _DECLARED.match(head.removeprefix(codecs.BOM_UTF8))
    try:
        name = codecs.lookup(declared[1].decode()).name if declared else "utf-8"
        b"".decode(name)  # some names are of no encoding of text
        return "" if name == "utf-8" else name
    except LookupError:
        return ""
