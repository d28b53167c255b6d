"""Text from documents and models, shown on terminals."""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, delete, C1
    "\u202a-\u202e\u2066-\u2069\ud800-\udfff]"  # changes of direction, half characters
)


def escaped(text: str) -> str:
    r"""`text` with each character that would steer a terminal as its escape, such as `\x1b`.

    Newlines and tabs stay. Files such as metrics.jsonl hold text as it is; only what is printed
    goes through here.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
