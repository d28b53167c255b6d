"""Terminal output: support for escape codes, and escaping of untrusted text."""

from __future__ import annotations

import os
import re
from typing import TextIO

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 except tab and newline, DEL, C1
    "\u202a-\u202e\u2066-\u2069\ud800-\udfff]"  # bidirectional controls, surrogates
)


def escaped(text: str) -> str:
    r"""Return `text` with control characters replaced by escapes such as `\x1b`.

    Also escapes bidirectional controls and lone surrogates; newlines and tabs remain. Escape only
    what is printed: files keep the original text.
    """
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def supports_escapes(stream: TextIO | None) -> bool:
    """Return whether `stream` supports escape codes, for colours and live lines.

    It does if it is a terminal, unless NO_COLOR is set (https://no-color.org) or TERM is `dumb`.
    None, a stream that does not exist, supports none.
    """
    if stream is None or not stream.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def quiet(text: str, stream: TextIO) -> str:
    """Return `text`, dimmed by escape codes if `stream` supports them."""
    return f"\x1b[2m{text}\x1b[0m" if supports_escapes(stream) else text
