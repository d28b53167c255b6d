"""Decode texts of unknown, possibly old encodings: TeX sources and books.

Tried in order: UTF-8; the encodings that the text declares; then Windows-1252, Macintosh Roman and
DOS Latin, if the result looks like text in Latin script. Other data is rejected.
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
    """Decode a text and drop a few stray control characters; return None if it is not text.

    declared: names of encodings, most likely first; if all are unknown, only UTF-8 and marked
    UTF-16 are decoded. A text with NULs is returned with all its characters.
    """
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return _without_controls(data.decode("utf-16", "replace"))
    try:
        return _without_controls(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        pass
    names = [name.strip().lower() for name in declared]
    codecs_declared = [codec for name in names if (codec := _codec(name))]
    for codec in codecs_declared:
        if (
            codec != "utf-8"
            and (text := _without_controls(data.decode(codec, "replace"))) is not None
        ):
            return text
    if names and not codecs_declared:
        return None
    text = data.decode("utf-8", "surrogateescape")
    if len(_ODD_BYTE.findall(text)) <= len(_BEYOND_ASCII.findall(text)):
        return _without_controls(text.translate(_ODD_BYTES))
    runs = _HIGH.findall(data)
    if sum(len(run) for run in runs if len(run) >= RUN) * 4 > sum(map(len, runs)):
        return None
    texts = [data.decode(codec, "replace") for codec in _LATIN]
    misfits = [_misfits(text) for text in texts]
    index = misfits.index(min(misfits))
    return _without_controls(texts[index]) if misfits[index] <= MISFITS else None


def _misfits(text: str) -> float:
    """Return the fraction of non-ASCII characters after a letter that are implausible there.

    A high fraction indicates a wrong encoding: "PoincarŽ" should read "Poincaré".
    """
    matches = _WITHIN.findall(text)
    misfits = sum(
        not (sign.isalpha() and (sign.islower() or before.isupper())) and sign not in "’´ªº–—"
        for before, sign in matches
    )
    return misfits / max(1, len(matches))


def _codec(name: str) -> str:
    """Return Python's name of an encoding; "" if unknown."""
    try:
        codec = codecs.lookup(_CODECS.get(name, name)).name
        b"".decode(codec)  # some of Python's codecs are not text encodings
    except (LookupError, ValueError):
        return ""
    return codec


def _without_controls(text: str) -> str | None:
    """Return the text without stray control characters, or None if it has too many."""
    if "\0" in text:
        return text  # the reader counts it
    if not (odd := len(_CONTROLS.findall(text))):
        return text
    return _CONTROLS.sub("", text) if odd * ODD <= len(text) + 2 * ODD else None
