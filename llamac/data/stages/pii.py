"""Mask personal data: mail addresses, telephone numbers, public IP addresses.

The patterns are conservative, so that other numbers stay.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from llamac.data.document import Document, Filter
from llamac.spec.stages import Pii

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9](?:[\w.+%-]{0,63})@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"
)
_PHONE = re.compile(
    r"""(?<![\w.+\-/])(?:
        \+[1-9]\d{7,14}                                            # +442079460958
      | \+[1-9]\d{0,2}(?:[ .\-]?\(\d{1,4}\))?(?:[ .\-]\d{2,4}){2,5}  # +44 20 7946 0958
      | \(\d{3}\)[ ]?\d{3}[ .\-]\d{4}                             # (555) 123-4567
      | (?:1-)?\d{3}-\d{3}-\d{4} | \d{3}\.\d{3}\.\d{4}           # 555-123-4567
    )(?![\w\-/]|\.\d)""",
    re.VERBOSE,
)
_IP4 = re.compile(r"(?<![\w.\-])(?:\d{1,3}\.){3}\d{1,3}(?![\w\-]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,6}(?![\w:])")

SMALL = 32  # four numbers below this are no IP address but a section or version
_MASKS = {"email": "<email>", "phone": "<phone>", "ip": "<ip>"}


def build(stage: Pii) -> Filter:
    """Return the filter that masks the kinds of personal data in `stage.mask`, in place.

    It counts the masks of each kind in `meta`.
    """
    kinds = sorted(set(stage.mask), key=list(_MASKS).index)

    def judge(document: Document) -> Document:
        counts = {}
        for kind in kinds:
            document.text, counts[kind] = _SUBSTITUTE[kind](document.text)
        if any(counts.values()):
            document.meta["masked"] = {kind: n for kind, n in counts.items() if n}
        return document

    return judge


def _emails(text: str) -> tuple[str, int]:
    return _EMAIL.subn(_MASKS["email"], text) if "@" in text else (text, 0)


def _phones(text: str) -> tuple[str, int]:
    return _PHONE.subn(_MASKS["phone"], text)


def _ips(text: str) -> tuple[str, int]:
    """Mask addresses of the public internet; return the text and their number.

    Private ones such as 127.0.0.1 and 10.0.0.1 identify nobody. Four small numbers are more often a
    section or a version.
    """
    count = 0

    def mask(match: re.Match[str]) -> str:
        nonlocal count
        if match[0].count(".") == 3 and all(int(part) < SMALL for part in match[0].split(".")):
            return match[0]
        try:
            if not ipaddress.ip_address(match[0]).is_global:
                return match[0]
        except ValueError:
            return match[0]
        count += 1
        return _MASKS["ip"]

    text = _IP4.sub(mask, text)
    return (_IP6.sub(mask, text) if "::" in text or text.count(":") > 1 else text), count


_SUBSTITUTE: dict[str, Callable[[str], tuple[str, int]]] = {
    "email": _emails,
    "phone": _phones,
    "ip": _ips,
}
