"""Decode texts in older encodings: TeX sources and books.

Tried in order: UTF-8; what the text declares; then Windows-1252, Macintosh Roman and DOS Latin, if
the result looks like text in Latin script. Anything else is rejected as noise.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

# fmt: off
_CODECS = {  # TeX's and editors' names of encodings → Python's names
    "applemac": "mac-roman", "macosroman": "mac-roman", "macce": "mac-latin2",
    "maccyr": "mac-cyrillic", "ansinew": "cp1252", "latin1": "cp1252", "latin-1": "cp1252",
    "isolatin": "cp1252", "iso-8859-1": "cp1252", "iso8859-1": "cp1252", "iso_8859-1": "cp1252",
    "ascii": "cp1252", "us-ascii": "cp1252", "iso-646-us": "cp1252", "windows latin 1": "cp1252",
    "decmulti": "cp1252", "isolatin2": "iso8859-2", "isolatin5": "iso8859-9",
    "isolatin9": "iso8859-15", "utf8x": "utf-8", "utf-8 unicode": "utf-8", "cp437de": "cp437",
    "cp866av": "cp866", "cp866nav": "cp866", "cp866mav": "cp866", "koi8-ru": "koi8-u",
    "iso88595": "iso8859-5", "x-iso-8859-5": "iso8859-5", "8859-8": "iso8859-8", "gb": "gbk",
    "bg5": "big5", "ks": "euc-kr", "sjis": "shift-jis", "jis": "iso2022-jp",
}
# fmt: on
ODD = 1000  # a text may have one stray control character in this many characters
MISFITS = 0.2  # largest fraction of misfits among signs after a letter
RUN = 4  # bytes: longest run of non-ASCII bytes that is common in Latin script

_CONTROLS = re.compile("[\x01-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffd]")
_ODD_BYTE = re.compile("[\udc80-\udcff]")  # invalid UTF-8 as decoded by "surrogateescape"
_BEYOND_ASCII = re.compile("[^\0-\x7f\udc80-\udcff]")
_ODD_BYTES = {0xDC00 + byte: bytes([byte]).decode("cp1252", "replace") for byte in range(128, 256)}
_LATIN = ("cp1252", "mac-roman", "cp850")
_WITHIN = re.compile(r"([A-Za-z])([^\x00-\x7f])")
_HIGH = re.compile(rb"[\x80-\xff]+")


def decode_text(data: bytes, declared: Iterable[str] = ()) -> str | None:
    """Decode a text and drop the control characters of a few stray bytes; None for noise.

    declared: names of encodings, most likely first.
    """
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return _sound(data.decode("utf-16", "replace"))
    try:
        return _sound(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        pass
    names = [name.strip().lower() for name in declared]
    known = [codec for name in names if (codec := _codec(name))]
    for codec in known:
        if codec != "utf-8" and (text := _sound(data.decode(codec, "replace"))) is not None:
            return text
    if names and not known:
        return None
    text = data.decode("utf-8", "surrogateescape")
    if len(_ODD_BYTE.findall(text)) <= len(_BEYOND_ASCII.findall(text)):
        return _sound(text.translate(_ODD_BYTES))
    runs = _HIGH.findall(data)
    if sum(len(run) for run in runs if len(run) >= RUN) * 4 > sum(map(len, runs)):
        return None
    texts = [data.decode(codec, "replace") for codec in _LATIN]
    misfits = [_misfits(text) for text in texts]
    best = misfits.index(min(misfits))
    return _sound(texts[best]) if misfits[best] <= MISFITS else None


def _misfits(text: str) -> float:
    """Return the fraction of non-ASCII characters after a letter that are no fitting letters.

    A high fraction indicates a wrong encoding: "PoincarŽ" should read "Poincaré".
    """
    found = _WITHIN.findall(text)
    bad = sum(
        not (sign.isalpha() and (sign.islower() or before.isupper())) and sign not in "’´ªº–—"
        for before, sign in found
    )
    return bad / max(1, len(found))


def _codec(name: str) -> str:
    """Return Python's name of an encoding; "" if unknown."""
    try:
        found = codecs.lookup(_CODECS.get(name, name)).name
        b"".decode(found)  # some of Python's codecs are not text encodings
    except (LookupError, ValueError):
        return ""
    return found


def _sound(text: str) -> str | None:
    if "\0" in text:
        return text  # the reader counts it
    if not (odd := len(_CONTROLS.findall(text))):
        return text
    return _CONTROLS.sub("", text) if odd * ODD <= len(text) + 2 * ODD else None
