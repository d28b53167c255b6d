"""Identify the licence of a licence file or of a source file's own tag, as an SPDX expression.

Texts are matched by licenseclassifier, a port of Google's licensecheck; a match covers a whole
licence, regardless of line breaks and decoration. A file with further text than a licence and a
copyright notice, such as a condition, has no known licence.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

from llamac.runtime.data.sources.decompress import package

FILE_CHARS = 1 << 18  # a longer file contains more than a licence
TAG_WITHIN = 5000  # characters at the top of a file that may name its licence
LEFT_WORDS = 10  # words allowed besides the licence: "For X software", "All contributions by Y"

_EXPRESSION = r"SPDX-License-Identifier:[ \t]*([\w.+()\- \t/]{2,200}?)[ \t]*"
# A separate comment, not inside a string or sentence.
_TAG = re.compile(
    rf"^[ \t]{{0,40}}(?:[/#*;%!.,({{\-\\<|]{{1,8}}|REM|rem|dnl|\.\\\"|[\"'](?=[ \t]))?[ \t]{{0,40}}"
    rf"{_EXPRESSION}(?:\*/\}}{{0,2}}|--%?>|\*\)|[-#]\}}|\]\]|#\|)?[ \t]{{0,40}}\r?$",
    re.M,
)
_COPYLEFT = re.compile(
    r"\b(?:GNU|Lesser|Affero|Library)\s[\s#*/;%-]{0,8}(?:General\s[\s#*/;%-]{0,8})?Public\s"
    r"[\s#*/;%-]{0,8}Licen[cs]e|\bA?GPL(?:v?[123]|-[123])|\bMozilla\sPublic\sLicen[cs]e",
    re.I,
)

_NOTICE = re.compile(
    r"\W*(?:portions )?(?:copyright\b.{0,12}(?:\(c\)|©|\d{4})|(?:\(c\)|©) ?(?:\d{4}|copyright))",
    re.I,
)
_GRANTS = re.compile(r"\b(?:permission (?:is|to)|redistribution and use)\b", re.I)
_RIGHTS = re.compile(r"\W*all rights reserved\W*", re.I)
_RIDER = re.compile(
    r"\b(?:not|no|non\w*|only|except\w*|commercial\w*|prohibit\w*|restrict\w*|forbid\w*|must|may|"
    r"shall|unless|however|additional\w*|conditions?|commons|terms|proprietary|confidential|"
    r"portions?|exclud\w*|enterprise|gpl\w*|agpl\w*|licensed under|nicht|kein\w*|nur|sauf|pas|"
    r"excepto|solo|salvo|but|everything|files?|folders?|director\w+|parts?|appl(?:y|ies)|otherwise)"
    r"\b",
    re.I,
)
_TITLE_WORDS = """
the a this under is and of mit x11 expat apache bsd isc zlib boost mozilla gnu general lesser affero
public license licence licenses version v1 v2 v3 zero two three 0 1 2 3 4 1.0 1.1 2.0 2.1 3.0 new
revised simplified modified clause open source software code copyright notice notices text file
january february june november 1991 1999 2004 2007 http https www opensource apache.org org spdx
html txt
"""
_TITLE = frozenset(_TITLE_WORDS.split())
_WORD = re.compile(r"[⺀-￿]|\w+(?:\.\d+)*")  # in scripts without spaces, each sign is a word

# Beginnings of licences, in lower case without punctuation: other lines may be such a beginning.
_GRANT = (
    "permission is hereby granted free of charge to any person obtaining a copy of this software "
    "and associated documentation files the software to deal in the software without restriction"
)
_BSD = (
    "redistribution and use in source and binary forms with or without modification are permitted"
)
_GNU = (
    "everyone is permitted to copy and distribute verbatim copies of this license document but "
    "changing it is not allowed"
)
_OPENINGS = (
    ("MIT", r"(?:the )?mit(?: x11)? licen[cs]e(?: mit)?", _GRANT),
    ("BSD-2-Clause", r"(?:the )?(?:bsd 2 clause|2 clause bsd|simplified bsd) licen[cs]e", _BSD),
    (
        "BSD-3-Clause",
        r"(?:the )?(?:bsd 3 clause|3 clause bsd|new bsd|revised bsd) licen[cs]e",
        _BSD,
    ),
    ("Apache-2.0", r"(?:the )?apache licen[cs]e,? version 2(?:\.0)?(?: january 2004)?", ""),
    ("ISC", r"(?:the )?isc licen[cs]e", ""),
    ("AGPL-3.0", r"gnu affero general public licen[cs]e version 3 19 november 2007", _GNU),
    ("LGPL-3.0", r"gnu lesser general public licen[cs]e version 3 29 june 2007", _GNU),
    ("LGPL-2.1", r"gnu lesser general public licen[cs]e version 2\.1 february 1999", _GNU),
    ("GPL-3.0", r"gnu general public licen[cs]e version 3 29 june 2007", _GNU),
    ("GPL-2.0", r"gnu general public licen[cs]e version 2 june 1991", _GNU),
    ("MPL-2.0", r"mozilla public licen[cs]e version 2\.0", ""),
)


def decode_licence(data: bytes) -> str:
    """Decode a licence file as UTF-8, or as UTF-16 if marked; invalid bytes become U+FFFD.

    Only the ASCII part matters for recognition.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def tag_of(text: str) -> str | None:
    """Return the SPDX-License-Identifier comments at a file's top as one expression, or None."""
    if "SPDX-License-Identifier" not in text[:TAG_WITHIN]:
        return None
    return join_expressions([match[1] for match in _TAG.finditer(text, 0, TAG_WITHIN)])


def join_expressions(expressions: list[str]) -> str | None:
    """Join SPDX expressions with AND, without repeats; None if there are none.

    One of several that contains OR is put in parentheses.
    """
    distinct = list(dict.fromkeys(expressions))
    if len(distinct) > 1:
        distinct = [
            f"({expression})" if " OR " in expression.upper() else expression
            for expression in distinct
        ]
    return " AND ".join(distinct) or None


def mentions_copyleft(text: str) -> bool:
    """Return whether the top of a source file mentions a GNU or Mozilla licence."""
    head = text[:TAG_WITHIN].upper()
    if not any(word in head for word in ("GPL", "GNU", "LESSER", "AFFERO", "MOZILLA")):
        return False  # quick check, true of most files: cheaper than the expression
    return _COPYLEFT.search(text, 0, TAG_WITHIN) is not None


def identify_licence(text: str) -> str | None:
    """Return the SPDX expression of a licence text; None if it is not exactly a known licence.

    Raises SourceError if licenseclassifier is not installed.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").strip()
    lines = [line.strip() for line in text.split("\n")]
    if not text or len(text) > FILE_CHARS or any(_is_odd_notice(line) for line in lines):
        return None
    return _licence_of("\n".join(line for line in lines if not _is_plain_notice(line)))


@lru_cache(maxsize=1024)  # repositories contain the same text many times
def _licence_of(text: str) -> str | None:
    """Return the SPDX expression of a licence text without its copyright notices."""
    tags = [match[1] for match in _TAG.finditer(text)]
    text = _TAG.sub("", text) if tags else text
    matches = package("licenseclassifier", "LICENSE").identify_license(text, 0.0)
    remainder, at = [], 0
    for match in matches:
        remainder.append(text[at : match.start])
        at = match.end
    remainder = _without_notices("\n".join([*remainder, text[at:]]))
    names = [match.id for match in matches]
    if not matches and remainder:
        opening = _opening(remainder)
        if opening is None:
            return None
        names = [opening]
    elif _says_more(remainder):
        return None
    if tags and all(name in " ".join(tags) for name in names):
        return join_expressions(tags)
    return join_expressions([*tags, *names])


def _is_odd_notice(line: str) -> bool:
    """Return whether a copyright notice continues with a condition (not with a licence)."""
    notice = _NOTICE.match(line) and _GRANTS.split(line, maxsplit=1)[0]
    return bool(notice) and _RIDER.search(notice) is not None


def _is_plain_notice(line: str) -> bool:
    """Return whether a line is a copyright notice and nothing else."""
    return bool(_NOTICE.match(line)) and len(_GRANTS.split(line, maxsplit=1)) == 1


def _without_notices(text: str) -> list[str]:
    """Return the lines that are not blank, decoration or copyright notices."""
    lines = (line.strip() for line in text.split("\n"))
    return [
        line
        for line in lines
        if _WORD.search(line) and not _NOTICE.match(line) and not _RIGHTS.fullmatch(line)
    ]


def _says_more(remainder: list[str]) -> bool:
    """Return whether lines beside a licence may change what it allows."""
    lines = [line for line in remainder if not _TITLE.issuperset(_words(line))]
    text = "\n".join(lines)
    return len(_words(text)) > LEFT_WORDS or _RIDER.search(text) is not None or not text.isascii()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _opening(lines: list[str]) -> str | None:
    """Return the licence whose title or opening words are these lines, or None."""
    text = " ".join(_words("\n".join(lines)))
    for name, title, phrase in _OPENINGS:
        titled = re.match(rf"{title}(?: |$)", text)
        rest = text[titled.end() :] if titled else text
        starts = phrase.startswith(rest) and (titled or len(rest.split()) >= 8)
        if text and starts and (rest or titled):
            return name
    return None
