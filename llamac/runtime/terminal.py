"""Terminals: whether one takes escape codes, and text from documents and models shown on it."""

from __future__ import annotations

import os
import re
from typing import TextIO

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, delete, C1
    "\u202a-\u202e\u2066-\u2069\ud800-\udfff]"  # changes of direction, half characters
)


def escaped(text: str) -> str:
    r"""Return `text` with characters that would steer a terminal as escapes, such as `\x1b`.

    Newlines and tabs stay. Files such as metrics.jsonl hold text as it is; only what is printed
    goes through here.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def takes_escapes(stream: TextIO | None) -> bool:
    """Return whether escape codes, for colours or moving lines, may be written to `stream`.

    They may on a terminal, unless NO_COLOR is set (https://no-color.org) or TERM is `dumb`.
    """
    if stream is None or not stream.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def quiet(text: str, stream: TextIO) -> str:
    """Return `text`, dimmed if `stream` takes escape codes."""
    return f"\x1b[2m{text}\x1b[0m" if takes_escapes(stream) else text
