"""Find the records of XML dumps by their tags, and parse each separately.

Only records reach the parser. A damaged record therefore affects no other one, memory is bounded by
the largest allowed record, and document types with their entities are never parsed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

from llamac.runtime.data.sources.decompress import CHUNK_BYTES, stream
from llamac.runtime.data.sources.skipped_records import Skipped

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
    trim: Callable[[bytes], bytes] | None = None,
) -> Iterator[tuple[int, ElementTree.Element]]:
    """Yield (line number, parsed element) for each record of an XML file.

    start, end: bytes that a record begins and ends with. Neither may occur elsewhere in XML text:
    `start` begins with `<`, and so does `end`, unless a record is a single tag.
    trim: function that removes unneeded parts from a record, or from its beginning, so that the
    limit `RECORD_BYTES` applies to the rest; None keeps records unchanged.
    Damaged and too long records are counted in `skipped`.
    """
    has_records = False
    for line, data in _frames(path, start, end, skipped, trim):
        has_records = True
        try:
            data.decode()
            element, had_illegal = _parse(data)
            if had_illegal:
                skipped.add("illegal characters", f"{path}:{line}")
            yield line, element
        except UnicodeDecodeError:
            skipped.add("invalid UTF-8", f"{path}:{line}")
        except ElementTree.ParseError:
            skipped.add("broken XML", f"{path}:{line}")
    if not has_records:
        skipped.add("no records in file", path)


def _parse(data: bytes) -> tuple[ElementTree.Element, bool]:
    """Parse a record; return it, and whether characters that XML forbids were left out of it.

    Raises ElementTree.ParseError.
    """
    try:
        return ElementTree.fromstring(data), False
    except ElementTree.ParseError:
        allowed = _REFERENCE.sub(lambda match: match[0] if _is_allowed(match) else b"", data)
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
    trim: Callable[[bytes], bytes] | None,
) -> Iterator[tuple[int, bytes]]:
    buffer, line = b"", 1
    in_record, searched = False, 0  # searched: length of the buffer without the record's end
    trimmed_lines = 0  # line ends removed from the record by `trim`
    quoted, quotes = 0, 0  # quotes in the record so far, if `end` ends a tag
    for piece in utf8_pieces(path, skipped):
        buffer += piece
        at, record_end = 0, -1  # record_end: position of the next end, or the buffer's length
        while True:
            if not in_record:
                match_at = buffer.find(start, at)
                stop = match_at if match_at >= 0 else max(at, len(buffer) - len(start) + 1)
                line += buffer.count(b"\n", at, stop)
                at = stop
                if match_at < 0:
                    break
                in_record, searched = True, at + len(start)
                quoted, quotes = at, 0
            if record_end < searched:
                record_end = buffer.find(end, searched)
                record_end = record_end if record_end >= 0 else len(buffer)
            match_at = record_end if record_end < len(buffer) else -1
            next_start = buffer.find(start, searched, record_end)
            if match_at >= 0 > next_start and not end.startswith(b"<"):
                quotes += buffer.count(b'"', quoted, match_at)
                quoted = match_at
                if quotes % 2:  # inside an attribute
                    searched = match_at + len(end)
                    continue
            stop = match_at + len(end) if match_at >= 0 else len(buffer)
            if next_start >= 0:
                skipped.add("broken XML", f"{path}:{line}")
                stop = next_start
            else:
                record = buffer[at:stop]
                if trim and len(trimmed := trim(record)) < len(record):
                    record = trimmed
                if len(record) > RECORD_BYTES:
                    skipped.add("record too long", f"{path}:{line}")
                elif match_at >= 0:
                    yield line, record
                else:
                    trimmed_lines += buffer.count(b"\n", at) - record.count(b"\n")
                    buffer, at = record, 0
                    searched = max(len(start), len(buffer) - max(len(start), len(end)) + 1)
                    break
            line += buffer.count(b"\n", at, stop) + trimmed_lines
            at, in_record, trimmed_lines = stop, False, 0
        buffer, searched, quoted = buffer[at:], searched - at, quoted - at
    if in_record:
        skipped.add("truncated XML", f"{path}:{line}")


def utf8_pieces(path: str, skipped: Skipped) -> Iterator[bytes]:
    """Yield a file's bytes converted to UTF-8 from the encoding that it declares.

    The encoding is that of the byte order mark or XML declaration. Bytes that are invalid in it
    become invalid UTF-8.
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
