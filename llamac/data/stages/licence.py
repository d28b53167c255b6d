"""Code under permissive licences: families of SPDX identifiers, and expressions of them."""

from __future__ import annotations

import re

from llamac.data.document import Document, Filter, Rejected
from llamac.spec.stages import Licence

# Lower-case prefixes of identifiers. Debian's copyright files call MIT's licence Expat.
_FAMILIES = {
    "mit": ("mit", "expat", "x11"),
    "bsd": ("bsd", "0bsd"),
    "apache": ("apache", "asl"),
}
_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+()\-/ \t]+)")
_TOKEN = re.compile(r"[()]|[^\s(),]+")
_LONGEST = 100  # words of an expression that anyone would write
_TAG_WITHIN = 5000  # characters from the top in which a file names its own licence


def build(stage: Licence) -> Filter:
    allowed = tuple(
        prefix for name in stage.allowed for prefix in _FAMILIES.get(name.lower(), (name.lower(),))
    )

    def judge(document: Document) -> Document | Rejected:
        """A file's own tag counts for more than what is said of its package."""
        tag = _TAG.search(document.text, 0, _TAG_WITHIN)
        licence = tag[1].strip() if tag else document.meta.get("licence")
        if not licence:
            return Rejected("no licence known")
        document.meta["licence"] = licence
        return document if permits(licence, allowed) else Rejected("licence", licence)

    return judge


def permits(expression: str, allowed: tuple[str, ...]) -> bool:
    """Whether an SPDX expression, or Debian's form of one, lets a file be used under licences
    whose identifiers begin with `allowed`, in lower case.

    Of alternatives (`OR`, `/`) one has to, of what applies together (`AND`, a comma) all.
    """
    spelled = expression.lower().replace("and/or", "or").replace("/", " or ").replace(",", " and ")
    tokens = _TOKEN.findall(spelled)
    tokens = [
        token for at, token in enumerate(tokens) if token != "and" or not _repeats(tokens, at)
    ]
    position = 0
    if len(tokens) > _LONGEST:
        return False

    def alternatives() -> bool:
        nonlocal position
        found = together()
        while position < len(tokens) and tokens[position] == "or":
            position += 1
            found = together() or found
        return found

    def together() -> bool:
        nonlocal position
        found = one()
        while position < len(tokens) and tokens[position] not in ("or", ")"):
            if tokens[position] == "and":
                position += 1
            found = one() and found
        return found

    def one() -> bool:
        nonlocal position
        if position >= len(tokens):
            return False
        token, position = tokens[position], position + 1
        if token == "(":
            found = alternatives()
            position += 1
            return found
        if position < len(tokens) and tokens[position] == "with":
            position += 2  # an exception grants more, it takes nothing away
        return any(_names(token, prefix) for prefix in allowed)

    return alternatives()


def _repeats(tokens: list[str], at: int) -> bool:
    """`MIT, and BSD` has its conjunction twice."""
    return at + 1 < len(tokens) and tokens[at + 1] in ("and", "or")


def _names(identifier: str, prefix: str) -> bool:
    """`bsd-3-clause` is of bsd, `mitnfa` is not of mit."""
    return re.match(rf"{re.escape(prefix)}(?![a-z])", identifier) is not None
