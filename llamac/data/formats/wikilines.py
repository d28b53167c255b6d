"""Clean up the lines of a page whose brackets are resolved: headings, lists, empty remains."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from llamac.data.formats.wikis import SWITCHES

# Placeholder characters, also for lines of <pre> and the like; XML text cannot contain them.
LITERAL, QUOTE, EQUALS = "\x01", "\x02", "\x03"
_SIGNS = {1: None, 2: "'", 3: "="}

_LIST = re.compile(r"[*#:;]+[ \t]*")
_QUOTES = re.compile(r"'{2,5}")
_SWITCH = re.compile(r"(^[ \t]*)?__([^\W\d_](?:[^\W\d]){1,38}?)__(?=([ \t]*$)?)", re.M)
_SPACES = re.compile(r"[ \t\xa0]{2,}|[\t\xa0]")
_EMPTY = re.compile(r" ?[(（][ ,;:，；：、]{0,20}[)）]")
_OPENING = re.compile(r"([(（])[ ,;，；、]{1,20}")
_BEFORE = re.compile(r" ([,.;](?:\s|$)|\))")
_COMMAS = re.compile(r"(?<!,)(?<!, ),(?: ?,)++(?= |$)")  # lists of templates, such as of sounds
_VARIANT = re.compile(r"-\{([^{}]{0,1000})\}-")
_VARIANTS = ("zh", "zh-hans", "zh-cn", "sr", "sr-ec", "sr-cyrl")  # MediaWiki's default choice
_CHOICE = re.compile(r"[ \t\n]*+([a-z]{2,3}(?:-[a-z]{2,5})?)[ \t]*+:(?!//)(.*)", re.S)


def tidy(text: str) -> str:
    """Remove the line-based markup of wikitext: quotes, magic words and list markers.

    Entities are decoded, and items of lists begin with "- ". Headings without text below them are
    dropped; one blank line separates paragraphs.
    """
    text = _QUOTES.sub("", text)
    if "-{" in text:
        text = _VARIANT.sub(_variant, _VARIANT.sub(_variant, text))
    if "__" in text:
        text = _SWITCH.sub(_switch, text)
    return "\n".join(_lines(html.unescape(text))).strip()


def _variant(match: re.Match[str]) -> str:
    """Return the text that `-{flags|content}-` shows, one of several script variants."""
    flags, bar, content = match[1].rpartition("|")
    if bar and set("HT-DN") & {flag.strip() for flag in flags.split(";")}:
        return ""
    choices: dict[str, str] = {}
    for piece in content.split(";"):
        if choice := _CHOICE.fullmatch(piece):
            choices.setdefault(choice[1], choice[2].strip())
    if not choices or "R" in flags:
        return content
    chosen = next((name for name in _VARIANTS if name in choices), "")
    return choices[chosen] if chosen else next(iter(choices.values()))


def _switch(match: re.Match[str]) -> str:
    """Remove `__NOTOC__` and the like; in other languages, only where it is alone on its line."""
    alone = match[1] is not None and match[3] is not None and match[2] == match[2].upper()
    return "" if alone or match[2] in SWITCHES else match[0]


def _lines(text: str) -> Iterator[str]:
    headings: list[tuple[int, str]] = []
    gap = False
    for raw in text.split("\n"):
        literal = raw.startswith(LITERAL)
        line = (raw.rstrip() if literal else _clean_line(raw)).translate(_SIGNS)
        if not line:
            gap = True
        elif not literal and (level := _level(line)):
            while headings and headings[-1][0] >= level:
                headings.pop()
            headings.append((level, line[level:-level].strip()))
        else:
            for _, title in headings:
                yield ""
                yield title
            if gap or headings:
                yield ""
            gap = False
            headings.clear()
            yield line


def _level(line: str) -> int:
    """Return the level of a heading, 1 to 6; 0 for other lines."""
    if not line.startswith("="):
        return 0
    left, right = len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("="))
    level = min(left, right, 6)
    return level if 2 * level < len(line) else 0


def _clean_line(line: str) -> str:
    """Return a line without list markers and the remains of removed templates."""
    line = _SPACES.sub(" ", line).strip()
    if marker := _LIST.match(line):
        item = line[marker.end() :]
        line = f"- {item}" if item and marker[0][0] in "*#" else item
    if "(" in line or "（" in line:
        line = _OPENING.sub(r"\1", _EMPTY.sub("", line))
    line = _BEFORE.sub(r"\1", line)
    if ",," in line or ", ," in line:
        line = _COMMAS.sub(",", line)
    # A row of a table that was not opened, or an argument of a template that was not closed.
    return "" if line.startswith("|") or not line.strip("-|* ") else line
