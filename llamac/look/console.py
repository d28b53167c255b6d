"""Styles of the command line's output.

Output to a terminal is styled and uses its full width. Files, pipes, and terminals with NO_COLOR or
TERM=dumb get no escape codes; see `llamac.runtime.terminal.supports_escapes`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console
from rich.text import Text
from rich.theme import Theme

from llamac.look.text_table import WIDE, Part, text_lines
from llamac.runtime.terminal import supports_escapes

STYLES = {
    "title": "bold",  # headings
    "head": "dim",  # names of columns
    "note": "dim",  # notes and progress
    "total": "bold",
    "good": "bold green",
    "warn": "yellow",
    "bad": "bold red",
    "place": "cyan",  # a location: file and line
    "added": "green",
    "removed": "red",
    "kept": "yellow",  # as in the drawings of inspect
    "again": "cyan",
}
LEAST_WIDTH = 60  # characters to which text is wrapped on a narrower terminal

Styles = Iterable[tuple[str, str]]
"""Pairs of a regular expression and the key of `STYLES` for what it matches."""


def console(stream: TextIO) -> Console:
    """Return a rich console with `STYLES`, which writes escape codes if `stream` supports them."""
    styled = supports_escapes(stream)
    return Console(
        file=stream,
        theme=Theme(STYLES),
        force_terminal=styled,
        force_jupyter=False,
        color_system="auto" if styled else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def show(*parts: Part, stream: TextIO | None = None) -> None:
    """Print paragraphs and blocks, wrapped to the width of a terminal but not in a file or pipe.

    stream: where to print; None is stdout.
    """
    out = console(stream or sys.stdout)
    width = max(LEAST_WIDTH, out.width) if out.file.isatty() else WIDE
    _write(text_lines(parts, width), out)


def show_marked(text: str, styles: Styles, stream: TextIO | None = None) -> None:
    """Print a text verbatim, without wrapping.

    styles: applied in order. stream: where to print; None is stdout.
    """
    found = Text(text)
    for pattern, style in styles:
        found.highlight_regex(pattern, style)
    _write(found.split("\n", allow_blank=True), console(stream or sys.stdout))


def show_error(text: str) -> None:
    """Print an error message to stderr verbatim, with styled locations, carets and hints."""
    show_marked(text, _OF_ERRORS, sys.stderr)


_OF_ERRORS = (
    (r"(?m)^\S+(?=: error: )", "place"),
    (r"(?m)(?<=: )error:", "bad"),
    (r"(?m)^llamac( \w+)*:", "bad"),
    (r"(?m)^\s+\^+$", "bad"),
    (r"(?m)^\s+help:", "good"),
    (r"(?m)^Try:", "note"),
)


def _write(lines: Iterable[Text], out: Console) -> None:
    for line in lines:
        line.rstrip()
        if out.is_terminal:
            out.print(line, soft_wrap=True)
        else:  # the text itself, whatever its tabs and width
            print(line.plain, file=out.file)
    out.file.flush()
