"""Keep code under permissive licences, given as families of SPDX identifiers."""

from __future__ import annotations

import re
from functools import cache

from llamac.data.document import Document, Filter, Rejected
from llamac.data.formats.licences.licence_texts import tag_of
from llamac.spec.stages import Licence

# Identifiers per family, in lower case: licences that at most require attribution. Without #
# bsd-protection, which is copyleft, and without those that forbid a use (-no-nuclear-license).
_BSD = r"[1234]-?clause(?:-(?:uc|clear|lbnl|attribution|modification|open-mpi|hp|patent|views|"
_BSD += r"shortened|freebsd|netbsd|darwin|sun|flex|acpica))?"
_MIT = r"mit(?:-(?:0|cmu|enna|feh|festival|modern-variant|open-group|testregex|wu))?"
_FAMILIES = {
    "mit": rf"{_MIT}|expat|x11(?:-distribute-modifications-variant)?",
    "bsd": rf"0bsd|bsd(?:-(?:{_BSD}|source-code))?",
    "apache": r"(?:apache|asl)(?:-?v?[12](?:\.\d)?)?",
}
_TOKEN = re.compile(r"[()]|[^\s(),]+")
_LONGEST = 100  # informal words of licence expressions


def build(stage: Licence) -> Filter:
    """Return a filter that keeps documents whose licence `stage.allowed` permits.

    It stores the licence in `meta`. Documents without a known licence are rejected.
    """
    allowed = tuple(name.lower() for name in stage.allowed)

    def judge(document: Document) -> Document | Rejected:
        """Judge by the file's own SPDX tag if it has one, else by its package's licence."""
        licence = tag_of(document.text) or document.meta.get("licence")
        if not licence:
            return Rejected("no licence known")
        document.meta["licence"] = licence
        return document if permits(licence, allowed) else Rejected("licence", licence)

    return judge


def permits(expression: str, allowed: tuple[str, ...]) -> bool:
    """Return whether a licence expression is satisfied by allowed licences.

    expression: in SPDX's or Debian's syntax. allowed: licences or families, in lower case. One
    alternative (`OR`, `/`) suffices; of licences that apply together (`AND`, a comma) all must be
    allowed.
    """
    normalized = (
        expression.lower().replace("and/or", "or").replace("/", " or ").replace(",", " and ")
    )
    tokens = _TOKEN.findall(normalized)
    tokens = [
        token for at, token in enumerate(tokens) if token != "and" or not _repeats(tokens, at)
    ]
    position = 0
    if len(tokens) > _LONGEST:
        return False

    def alternatives() -> bool:
        nonlocal position
        permitted = conjunction()
        while position < len(tokens) and tokens[position] == "or":
            position += 1
            permitted = conjunction() or permitted
        return permitted

    def conjunction() -> bool:
        nonlocal position
        permitted = licence()
        while position < len(tokens) and tokens[position] not in ("or", ")"):
            if tokens[position] == "and":
                position += 1
            permitted = licence() and permitted
        return permitted

    def licence() -> bool:
        nonlocal position
        if position >= len(tokens):
            return False
        token, position = tokens[position], position + 1
        if token == "(":
            permitted = alternatives()
            position += 1
            return permitted
        if position < len(tokens) and tokens[position] == "with":
            position += 2
            if "exception" not in tokens[position - 1 : position + 1][0]:
                return False  # an exception grants more rights; anything else may restrict them
        return any(_names(token, name) for name in allowed)

    return alternatives()


def _repeats(tokens: list[str], at: int) -> bool:
    """Return whether a conjunction repeats the one before it, as in `MIT, and BSD`."""
    return at + 1 < len(tokens) and tokens[at + 1] in ("and", "or")


def _names(identifier: str, allowed: str) -> bool:
    """Return whether an identifier is the allowed one or of its family: `gpl-2.0-only` of `gpl`."""
    name = _HOLDER.sub("", identifier.replace(".0", ""))
    return _pattern(allowed).fullmatch(name) is not None


_HOLDER = re.compile(r"(?<=-clause)~[\w.-]+$")
"""licensecheck's suffix of a BSD licence whose clauses name the holder: `BSD-3-clause~Google`."""


@cache
def _pattern(allowed: str) -> re.Pattern[str]:
    name = re.escape(allowed.replace(".0", ""))
    version = "" if re.search(r"\d", allowed) else r"(?:-v?\d+(?:\.\d+)*)?"
    general = rf"{name}{version}(?:\+|-only|-or-later)?"
    return re.compile(_FAMILIES.get(allowed, general))
