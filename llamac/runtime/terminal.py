"""Terminal output: detect support for escape codes, and escape untrusted text."""

from __future__ import annotations

import os
import re
from typing import TextIO

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 except tab and newline, DEL, C1
    "\u202a-\u202e\u2066-\u2069\ud800-\udfff]"  # bidirectional controls, surrogates
)


def escaped(text: str) -> str:
    r"""Return `text` with terminal control characters as escapes, such as `\x1b`.

    Newlines and tabs stay. Only printed text is escaped; files such as metrics.jsonl have the
    original.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def takes_escapes(stream: TextIO | None) -> bool:
    """Return whether escape codes, for colours or live lines, may be written to `stream`.

    True on a terminal, unless NO_COLOR is set (https://no-color.org) or TERM is `dumb`.
    """
    if stream is None or not stream.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def quiet(text: str, stream: TextIO) -> str:
    """Return `text`, dimmed if `stream` takes escape codes."""
    return f"\x1b[2m{text}\x1b[0m" if takes_escapes(stream) else text
