"""Parse Debian's machine-readable copyright files (DEP-5), and map its licence names to SPDX."""

from __future__ import annotations

import fnmatch
import re

_DEP5 = re.compile(r"^Format:[^\n]*(?:copyright-format|dep5|dep-5)", re.I | re.M)
# Debian's names → SPDX. Whole names only, since "MIT-like" is another licence than MIT.
_NAMES = (
    (re.compile(r"expat|mit/expat", re.I), "MIT"),
    (re.compile(r"bsd-?([234])-?clause", re.I), r"BSD-\1-Clause"),
    (re.compile(r"(A?GPL|LGPL)-([123](?:\.\d)?)(?:\.0)?\+", re.I), r"\1-\2-or-later"),
    (re.compile(r"(?:ASL|Apache)-2(?:\.0)?", re.I), "Apache-2.0"),
)
_CONJUNCTIONS = (
    (re.compile(r" and/or | or | ?\| ?", re.I), " OR "),
    (re.compile(r",? and |, ", re.I), " AND "),
)
_LONGEST = 500  # longest short name of one or several licences, characters


def is_dep5(text: str) -> bool:
    """Return whether a copyright file is in the machine-readable format (DEP-5)."""
    return _DEP5.search(text, 0, 2000) is not None


def dep5(text: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return (compiled glob, SPDX expression) for each glob of a DEP-5 file, in order.

    Paragraphs without a licence are left out.
    """
    licences = []
    for paragraph in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        fields: dict[str, list[str]] = {}
        last = ""
        for line in paragraph.split("\n"):
            if line[:1] in (" ", "\t"):
                fields.setdefault(last, []).append(line.strip())
            else:
                last, _, value = line.partition(":")
                last = last.strip().lower()
                fields[last] = [value.strip()]
        licence = fields.get("license", [""])[0]
        if licence:
            globs = " ".join(fields.get("files", [])).split()
            licences += [(_glob(glob), spdx(licence)) for glob in globs]
    return tuple(licences)


def _glob(glob: str) -> re.Pattern[str]:
    """Compile a DEP-5 glob: `*` and `?` also match slashes, a backslash escapes a character."""
    signs = re.findall(r"\\.|.", glob.removeprefix("./"), re.S)
    plain = (
        sign if sign in "*?" else f"[{sign[-1]}]" if sign[-1] in "*?[" else sign[-1]
        for sign in signs
    )
    return re.compile(fnmatch.translate("".join(plain)))


def spdx(licence: str) -> str:
    """Convert Debian's short name of one or more licences to an SPDX expression.

    Names that are not known stay as they are.
    """
    licence = " ".join(licence.split())[:_LONGEST]
    for pattern, replacement in _CONJUNCTIONS:
        licence = pattern.sub(replacement, licence)
    return " ".join(map(_name, licence.split(" ")))


def _name(word: str) -> str:
    """Convert one word of an expression, which may have parentheses around it."""
    inner = word.strip("()")
    for pattern, replacement in _NAMES:
        if match := pattern.fullmatch(inner):
            return word.replace(inner, match.expand(replacement))
    return word
