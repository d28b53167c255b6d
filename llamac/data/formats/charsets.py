"""Detect and decode the character encodings of web pages, by the WHATWG Encoding Standard.

webencodings resolves labels, and Python's codecs decode; an error handler decodes characters that
browsers accept but those codecs do not.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from llamac.runtime.data.sources.decompress import package

HEAD_BYTES = 4096  # bytes in which a page must declare its encoding; the standard says 1024

# The standard has neither UTF-32 nor UTF-16 without a mark; these beginnings are unambiguous.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
)
_MARKUP_STARTS = (
    (b"<\0\0", "utf-32-le"),
    (b"\0\0\0<", "utf-32-be"),
    (b"<\0", "utf-16le"),
    (b"\0<", "utf-16be"),
)
# Python codecs that are supersets of those named by webencodings.
_SUPERSETS = {"gbk": "gb18030", "euc-jp": "euc_jp", "iso-2022-jp": "iso2022_jp_ext"}

_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.S)
_META = re.compile(rb"<meta[\s/]([^>]*)", re.I)
_ATTRIBUTE = re.compile(rb"""([^\s/>=]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+))""")
_CHARSET = re.compile(rb"""charset\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s;"']+))""", re.I)
_XML = re.compile(rb"""\s*<\?xml\s[^>]{0,200}?encoding\s*=\s*["']([^"'>]{1,40})""")


def encoding_of(data: bytes, charset: str | None) -> str:
    """Return the name of a page's encoding: WHATWG's name or, if it has none, Python's.

    charset: label declared by HTTP, or None. Checked in order: the byte order mark, or markup in
    UTF-16 or UTF-32; `charset`; the page's own declaration; valid UTF-8; statistics of the bytes.
    Labels that browsers do not know are ignored. For a page without zero bytes, UTF-16 is ignored
    in `charset`; in the page's own declaration, it means UTF-8.
    """
    for mark, name in (*_MARKS, *_MARKUP_STARTS):
        if data.startswith(mark):
            return name
    if (
        charset
        and (name := _standard_name(charset))
        and not (_is_utf16(name) and b"\0" not in data[:1024])
    ):
        return name
    for label in _declared_labels(data[:HEAD_BYTES]):
        if name := _standard_name(label.decode("latin-1")):
            # The declaration was readable as ASCII, so the page is not UTF-16: the standard says
            # UTF-8.
            return "utf-8" if _is_utf16(name) else name.replace("x-user-defined", "windows-1252")
    if b"\x1b$" not in data[:HEAD_BYTES]:  # ISO-2022-JP is valid UTF-8 too
        try:
            codecs.utf_8_decode(data, "strict", False)
            return "utf-8"
        except UnicodeDecodeError:
            pass
    detect = package("resiliparse.parse.encoding", "html").detect_encoding
    guess = detect(data, html5_compatible=False) or "windows-1252"
    return _standard_name(guess) or guess


def decode(data: bytes, encoding: str) -> str:
    """Decode a page without its byte order mark; invalid bytes become U+FFFD.

    encoding: a name from `encoding_of`.
    """
    for mark, name in _MARKS:
        if name == encoding:
            data = data.removeprefix(mark)
    known = package("webencodings", "html").lookup(encoding)
    try:
        codec = codecs.lookup(_SUPERSETS[encoding]) if encoding in _SUPERSETS else known.codec_info
    except (AttributeError, LookupError):  # the statistical guess is unknown to browsers and Python
        codec = _python_codec(encoding)
    native = encoding.startswith("utf") or encoding == "replacement"
    errors = "replace" if native else _HANDLER
    return codec.decode(data, errors)[0]


def charset_of(parameters: str) -> str | None:
    """Return the charset in a Content-Type's parameters, or None."""
    match = _CHARSET.search(parameters.encode("utf-8", "replace"))
    return next(filter(None, match.groups()), b"").decode("latin-1") or None if match else None


def _standard_name(label: str) -> str | None:
    known = package("webencodings", "html").lookup(label)
    return known.name if known else None


def _python_codec(name: str) -> codecs.CodecInfo:
    try:
        return codecs.lookup(name)
    except LookupError:
        return codecs.lookup("cp1252")


def _is_utf16(name: str) -> bool:
    return name.startswith("utf-16")


def _declared_labels(head: bytes) -> Iterator[bytes]:
    """Yield the encoding labels in a page's `<meta>` elements and XML declaration."""
    for tag in _META.findall(_COMMENT.sub(b"", head)):
        values = {
            name.lower(): double or single or bare
            for name, double, single, bare in reversed(_ATTRIBUTE.findall(tag))
        }
        if b"charset" in values:
            yield values[b"charset"]
        elif values.get(b"http-equiv", b"").strip().lower() == b"content-type":
            match = _CHARSET.search(values.get(b"content", b""))
            yield next(filter(None, match.groups()), b"") if match else b""
    if match := _XML.match(head):
        yield match[1]


# --- Characters that browsers accept and Python's codecs do not -------------------------------

_HANDLER = "llamac-as-browsers"


def _as_browsers(error: UnicodeError) -> tuple[str, int]:
    """Decode characters that browsers accept and Python's codecs refuse (error handler).

    Undefined bytes 0x80 to 0x9F become the control characters of those numbers; 0x80 is the euro
    sign in GBK; EUC-JP and ISO-2022-JP include the rows of Windows-31J.
    """
    assert isinstance(error, UnicodeDecodeError)
    data, at = error.object, error.start
    if error.encoding == "charmap" and 0x80 <= data[at] < 0xA0:
        return chr(data[at]), at + 1
    if error.encoding == "gb18030" and data[at] == 0x80:
        return "€", at + 1
    if error.encoding in ("euc_jp", "iso2022_jp_ext"):
        row, cell = (byte & 0x7F for byte in data[at : at + 2].ljust(2, b"\0"))
        if 0x21 <= row <= 0x7E and 0x21 <= cell <= 0x7E and data[at] >> 7 == data[at + 1] >> 7:
            return _windows_31j(row, cell), at + 2
    return "\ufffd", error.end


def _windows_31j(row: int, cell: int) -> str:
    """Return the character at a JIS row and cell, each counted from 0x21, by way of Shift JIS."""
    lead = (row + 1) // 2 + (0x70 if row < 0x5F else 0xB0)
    trail = cell + (0x7E if row % 2 == 0 else 0x1F if cell < 0x60 else 0x20)
    return bytes((lead, trail)).decode("cp932", "replace")


codecs.register_error(_HANDLER, _as_browsers)
