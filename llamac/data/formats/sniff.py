"""Distinguish pages from binary data, following the WHATWG MIME Sniffing Standard."""

from __future__ import annotations

import re

HEAD_BYTES = 1445  # the standard's resource header
STRAY = 4  # control characters that any page may have by mistake; more only up to 2 %

# "Binary data bytes" of the standard: control characters that never occur in text.
CONTROLS = bytes((*range(9), 11, *range(14, 27), *range(28, 32)))
_TEXTUAL = (b"%PDF-", b"%!PS-Adobe-", b"{\\rtf")  # formats that begin like text
_BEGINS = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:(?:<\?xml[^>]*>|<!--.*?-->)\s*)*<(?:!DOCTYPE\s+HTML|HTML|HEAD|BODY|TITLE"
    rb"|META|LINK|SCRIPT|STYLE|IFRAME|H[1-6]|DIV|SPAN|P|BR|A|B|I|UL|OL|TABLE|FONT|CENTER|PRE|FORM|IMG|HR"
    rb"|MAIN|ARTICLE|SECTION|HEADER|NAV)[\s/>]",
    re.I | re.S,
)


def is_binary(data: bytes) -> bool:
    """Return whether data is binary, by the control characters among its first bytes.

    Most UTF-16 text counts as binary, as do PDF, PostScript and RTF. More lenient than the
    standard, which tolerates no control characters: real pages have a few.
    """
    head = data[:HEAD_BYTES]
    controls = len(head) - len(head.translate(None, CONTROLS))
    return data.startswith(_TEXTUAL) or (controls > STRAY and controls * 50 > len(head))


def is_markup(data: bytes) -> bool:
    """Return whether data of undeclared type begins with an HTML tag, possibly after comments."""
    head = data[:HEAD_BYTES]
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")):  # UTF-16
        head = head.lstrip(b"\xff\xfe").replace(b"\0", b"")
    return bool(_BEGINS.match(head)) and len(head.translate(None, CONTROLS)) == len(head)
