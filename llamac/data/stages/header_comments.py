"""Remove comments at the top of a code file that state its licence or copyright.

Lines that must be at the top are kept: `#!`, encoding and mode lines, `<?php`, XML declarations.
"""

from __future__ import annotations

import re

from llamac.data.document import Document, Filter
from llamac.spec.stages import HeaderComments

_FIRST = re.compile(
    r"\ufeff?(?:#!.*\n|#.*?coding[:=].*\n|(?:#|//|;+|--)[ \t]*-\*-.*-\*-.*\n|<\?php\b.*\n"
    r"|<\?xml.*\?>[ \t]*\n|(?:@charset|'use strict'|\"use strict\").*\n|[ \t]*\n)*"
)
_LINES = re.compile(
    r"(?:[ \t]*(?://|#(?!!|include|define|if|pragma)|--(?!\[)|;|%|!|\.\.[ ]|\\\"|REM\b|dnl\b)"
    r".*\n?)+"
)
_BLOCK = re.compile(
    r"[ \t]*(?:/\*.*?\*/|<!--.*?-->|\(\*.*?\*\)|\{-.*?-\}|--\[(=*)\[.*?\]\1\]|\{#.*?#\}"
    r"|=begin\b.*?^=end\b|[rRuU]?\"\"\".*?\"\"\"|[rRuU]?'''.*?'''|#\|.*?\|#|<%--.*?--%>)[ \t]*\n?",
    re.DOTALL | re.MULTILINE,
)
_BUILD_TAGS = re.compile(
    r"(?://go:build|// \+build|//[ \t]*eslint|# -\*- |# frozen_string_literal)"
)
_LEGAL = re.compile(
    r"copyright|\(c\)[ ]?\d{4}|©|licen[cs]e|spdx-|all rights reserved|public domain"
    r"|without warrant|redistribution and use|permission is hereby granted",
    re.IGNORECASE,
)
_BLANK = re.compile(r"(?:[ \t]*\n)+")
_LONGEST = 40_000  # longest comment, characters: a longer one is not a licence header


def build(stage: HeaderComments) -> Filter:
    """Return the filter that removes legal notices among the comments above the code, in place."""

    def judge(document: Document) -> Document:
        document.text = without_header(document.text)
        return document

    return judge


def without_header(text: str) -> str:
    """Return the text without the legal notices among the comments above its code."""
    first = _FIRST.match(text)
    assert first is not None
    position, remaining = first.end(), [text[: first.end()]]
    removed = False
    while comment := _comment(text, position):
        part = text[position : comment.end()]
        blank = _BLANK.match(text, comment.end())
        end = blank.end() if blank else comment.end()
        if _LEGAL.search(part) and not _BUILD_TAGS.match(part.lstrip()):
            removed = True
        else:
            remaining.append(text[position:end])
        position = end
    return "".join(remaining) + text[position:] if removed else text


def _comment(text: str, position: int) -> re.Match[str] | None:
    """Return the comment that begins here: one block, or adjacent lines of one kind."""
    end = position + _LONGEST
    return _BLOCK.match(text, position, end) or _LINES.match(text, position, end)
