"""Drop data, minified and generated files from code by heuristics (LLaMA paper, section 2.1).

The paper names line length and the proportion of alphanumeric characters. The default limits are
those of its replications.
"""

from __future__ import annotations

import re

from llamac.data.document import Document, Filter, Rejected
from llamac.spec.stages import Code

_OTHERS = re.compile(r"[\W_]+")
_ASCII_OTHERS = bytes(byte for byte in range(128) if not chr(byte).isalnum())


def build(stage: Code) -> Filter:
    """Return the filter by length of lines and share of letters and digits.

    It rejects documents over `max_line` or `mean_line` characters, or under `alphanumeric`.
    """

    def judge(document: Document) -> Document | Rejected:
        lines = document.text.splitlines()
        lengths = list(map(len, lines))
        if not any(lengths):
            return Rejected("empty")
        longest, mean = max(lengths), sum(lengths) / len(lengths)
        if longest > stage.max_line:
            return Rejected("long line", f"{longest} > {stage.max_line} characters")
        if mean > stage.mean_line:
            return Rejected("long lines on average", f"{mean:.1f} > {stage.mean_line:g} characters")
        share = alphanumeric(document.text)
        if share < stage.alphanumeric:
            return Rejected("few letters and digits", f"{share:.2f} < {stage.alphanumeric:g}")
        return document

    return judge


def alphanumeric(text: str) -> float:
    """Return the fraction of characters that are letters or digits of any script.

    text: not empty.
    """
    if text.isascii():
        return len(text.encode().translate(None, _ASCII_OTHERS)) / len(text)
    return len(_OTHERS.sub("", text)) / len(text)
