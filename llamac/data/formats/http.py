"""Parse the HTTP responses of crawl archives, as leniently as browsers do."""

from __future__ import annotations

import codecs
import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from llamac.data.formats.charsets import charset_of
from llamac.data.formats.sniff import CONTROLS, HEAD_BYTES, is_binary
from llamac.runtime.data.sources.decompress import package

HEADER_BYTES = 1 << 16  # longest header
BODY_BYTES = 1 << 24  # largest decoded body; the rest of a decompression bomb is dropped
CODINGS = 8  # most codings of one body
SLICE_BYTES = 1 << 10  # bytes decompressed at a time: deflate expands them to 1 MB, zstd to 32 MB
WINDOW_BYTES = 1 << 23  # RFC 9659's limit for zstd

_STATUS = re.compile(rb"\s*HTTP(?:/\d+(?:\.\d+)?)?[ \t]+(\d{3})(?!\d)", re.I)
_CHUNK = re.compile(rb"[ \t]*\+?(?:0[xX])?([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\n]*)?\r?\n")
_END = re.compile(rb"\r?\n")


class ResponseError(ValueError):
    """The bytes are not an HTTP response, or its body cannot be decoded."""


@dataclass(frozen=True, slots=True)
class Response:
    """Parsed HTTP response.

    status: code, such as 200. content_type: lower case, without parameters; "" if missing. charset:
    declared label, or None. body: with transfer and content codings decoded; decompression ends
    once it exceeds `BODY_BYTES`. complete: False if the response itself was cut off.
    """

    status: int
    content_type: str
    charset: str | None
    body: bytes
    complete: bool


def response(data: bytes) -> Response:
    """Parse an HTTP response and decode its body, skipping interim responses (1xx).

    Raises ResponseError if the bytes are not a response, or the body cannot be decoded.
    """
    # Leading blank lines are skipped, as RFC 9112 asks of servers.
    file = io.BytesIO(data.lstrip(b"\r\n"))
    while True:
        status = _STATUS.match(file.readline(HEADER_BYTES))
        fields = headers(file) if status else None
        if status is None or fields is None:
            raise ResponseError
        if status[1][:1] != b"1":
            break
    content_type, charset = mime_type(fields.get("content-type", ""))
    body, complete = _decode_body(file.read(), fields)
    return Response(int(status[1]), content_type, charset, body, complete)


def headers(file: IO[bytes]) -> dict[str, str] | None:
    """Read header fields up to the blank line, and return their values by lower-case name.

    Folded lines and repeated fields are joined; lines without a colon are ignored. Returns None if
    there is no blank line within `HEADER_BYTES`.
    """
    fields: dict[str, str] = {}
    name, size = "", 0
    while line := file.readline(HEADER_BYTES):
        size += len(line)
        if line in (b"\n", b"\r\n"):
            return fields
        if size > HEADER_BYTES:
            return None
        text = line.decode("utf-8", "replace")
        if text[0] in " \t":
            if name and (continuation := text.strip()):
                fields[name] = f"{fields[name]} {continuation}".strip()
            continue
        name, colon, value = text.partition(":")
        name, value = name.strip().lower() if colon else "", value.strip()
        if name:
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return None


def mime_type(value: str) -> tuple[str, str | None]:
    """Return (MIME type in lower case, charset or None) of a Content-Type, by the Fetch standard.

    The last of several values counts; it inherits the charset of an earlier one of its type. The
    type is "" if there is none.
    """
    kind, charset = "", None
    for part in value.split(","):
        essence, _, parameters = part.partition(";")
        essence = essence.strip().lower()
        if "/" in essence:
            kind, charset = essence, charset if essence == kind else None
        charset = charset_of(parameters) or charset
    return kind, charset


# --- Codings -----------------------------------------------------------------------------------


def _decode_body(body: bytes, fields: dict[str, str]) -> tuple[bytes, bool]:
    codings = [
        coding.partition(";")[0].strip().lower()
        for name in ("content-encoding", "transfer-encoding")
        for coding in fields.get(name, "").split(",")
    ]
    codings = [coding for coding in codings if coding == "chunked" or coding in _INFLATE]
    if len(codings) > CODINGS:
        raise ResponseError
    all_complete = True
    for coding in reversed(codings):
        body, complete = _join_chunks(body) if coding == "chunked" else _decompress(body, coding)
        all_complete &= complete
    return body, all_complete


def _join_chunks(data: bytes) -> tuple[bytes, bool]:
    """Join the chunks up to the first one that is truncated or misplaced; return (body, complete).

    A body that does not begin with a chunk size is returned as it is: crawlers undo the coding and
    keep the header.
    """
    pieces, at, match = [], 0, _CHUNK.match(data)
    if match is None:
        return data, True
    while match and (size := int(match[1], 16)):
        pieces.append(data[match.end() : match.end() + size])
        at = match.end() + size
        end = _END.match(data, at)
        match = _CHUNK.match(data, end.end()) if end else None
    return b"".join(pieces), match is not None


def _decompress(data: bytes, coding: str) -> tuple[bytes, bool]:
    """Decompress a body; return (bytes, complete). Raises ResponseError if that fails.

    Plain text is returned as it is: crawlers undo the coding and keep the header.
    """
    for magic, make in _INFLATE[coding]:
        if magic and data.startswith(magic):
            return _decompress_members(data, make, magic)
    if _is_plain(data):
        return data, True
    for magic, make in _INFLATE[coding]:
        if not magic:
            try:
                return _decompress_members(data, make, magic)
            except ResponseError:
                continue
    if is_binary(data):
        raise ResponseError
    return data, True


def _is_plain(data: bytes) -> bool:
    """Return whether data cannot be compressed: markup or UTF-8 without control characters."""
    head = data[:HEAD_BYTES]
    if len(head.translate(None, CONTROLS)) < len(head):
        return False
    try:
        return head.lstrip().startswith(b"<") or bool(codecs.utf_8_decode(head, "strict", False))
    except UnicodeDecodeError:
        return False


def _decompress_members(data: bytes, make: Callable[[], Any], magic: bytes) -> tuple[bytes, bool]:
    """Decompress all members of a stream; return (bytes, whether the last member is complete).

    Trailing data that is not a member is ignored, as in browsers. Raises ResponseError if a
    member is damaged, but not if it is merely truncated.
    """
    pieces, size, decompressor, complete = [], 0, make(), False
    rest = memoryview(data)
    while rest and size <= BODY_BYTES:
        piece, rest = rest[:SLICE_BYTES], rest[SLICE_BYTES:]
        pieces.append(decompressor.decompress(piece))
        size += len(pieces[-1])
        if complete := decompressor.eof:
            rest = memoryview(data)[len(data) - len(rest) - len(decompressor.unused_data) :]
            if not magic or rest[: len(magic)] != magic:
                break
            decompressor = make()
    return b"".join(pieces), complete or size > BODY_BYTES


class _Decompressor:
    """Adapter that gives any library's decompressor zlib's interface."""

    def __init__(
        self, decompressor: Any, step: Callable[[Any], bytes], error: type[Exception]
    ) -> None:
        self._decompressor, self._step, self._error = decompressor, step, error

    def decompress(self, data: memoryview) -> bytes:
        try:
            return self._step(data)
        except self._error as error:
            raise ResponseError from error

    @property
    def eof(self) -> bool:
        decompressor = self._decompressor
        return decompressor.eof if hasattr(decompressor, "eof") else decompressor.is_finished()

    @property
    def unused_data(self) -> bytes:
        return getattr(self._decompressor, "unused_data", b"")


def _zlib(wbits: int) -> Callable[[], _Decompressor]:
    def make() -> _Decompressor:
        decompressor = zlib.decompressobj(wbits)
        return _Decompressor(decompressor, decompressor.decompress, zlib.error)

    return make


def _brotli() -> _Decompressor:
    brotli = package("brotli", "HTTP response")
    decompressor = brotli.Decompressor()
    # A full buffer means more than BODY_BYTES, after which nothing is decompressed.
    return _Decompressor(
        decompressor,
        lambda data: decompressor.process(data, output_buffer_limit=BODY_BYTES + 1),
        brotli.error,
    )


def _zstd() -> _Decompressor:
    zstandard = package("zstandard", "HTTP response")
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj()
    return _Decompressor(decompressor, decompressor.decompress, zstandard.ZstdError)


# (first bytes, decompressor) in order of attempts. Servers confuse the first two names.
_DEFLATE = ((b"\x1f\x8b", _zlib(31)), (b"", _zlib(15)), (b"", _zlib(-15)))
_INFLATE: dict[str, tuple[tuple[bytes, Callable[[], _Decompressor]], ...]] = {
    "gzip": _DEFLATE,
    "x-gzip": _DEFLATE,
    "deflate": _DEFLATE,
    "br": ((b"", _brotli),),
    "zstd": ((b"\x28\xb5\x2f\xfd", _zstd),),
}
