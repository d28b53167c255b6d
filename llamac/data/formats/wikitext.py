"""Wikitext → text, in one pass over its brackets, so in time linear in its length.

Comments, templates, tables, references, files and categories go; links become their labels;
headings, paragraphs and list items stay. mwparserfromhell reads the same language more fully, at
a twentieth of the speed, and needs minutes for a few thousand unclosed `<ref>`.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

DEPTH = 100  # of brackets within brackets; MediaWiki itself stops at 40

# fmt: off
DROPPED_TAGS = frozenset((
    "ref", "references", "gallery", "timeline", "imagemap", "score", "graph", "hiero", "mapframe",
    "maplink", "templatestyles", "indicator", "inputbox", "categorytree", "style", "script",
    "math", "chem", "ce",
))
LITERAL_TAGS = frozenset(("nowiki", "pre", "syntaxhighlight", "source", "code"))
# Templates of which a reader sees an argument in the middle of a sentence: which one.
_SHOWN = {
    "nowrap": 1, "nobr": 1, "small": 1, "big": 1, "nobold": 1, "smallcaps": 1, "abbr": 1,
    "circa": 1, "nihongo": 1, "convert": 1, "cvt": 1, "lang": 2, "transl": 2, "transliteration": 2,
}
# fmt: on
_WITH_NEXT = frozenset(("convert", "cvt"))  # number and unit are two arguments

_TOKEN = re.compile(
    r"\n[ \t:*#;]*\{\||\n[ \t]*\|\}(?!\})|\n(?==)|\{\{|\}\}|\[\[|\]\]|\||<!--"
    r"|</?[A-Za-z][A-Za-z0-9]*(?:[\s/][^<>]*)?>|\[(?=(?:https?:|ftp:)?//)|\]"
)
_TAG = re.compile(r"<(/?)([A-Za-z0-9]+)([^<>]*)>")
_NAME = re.compile(r"[ \t\n]*([^|{}\[\]<>#\n]{0,60})")
_NAMESPACE = re.compile(r"[ \t]*([^|:{}\[\]<>\n]{1,60}?)[ \t]*:")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*")
_LIST = re.compile(r"[*#:;]+[ \t]*")
_QUOTES = re.compile(r"'{2,5}")
_SWITCH = re.compile(r"__[A-ZÄÖÜА-ЯІЇЄ]{3,40}__")
_SPACES = re.compile(r"[ \t\xa0]+")
_EMPTY = re.compile(r" ?\([ ,;:]{0,20}\)")
_OPENING = re.compile(r"\([ ,;]{1,20}")
_BEFORE = re.compile(r" ([,.;](?:\s|$)|\))")
_COMMAS = re.compile(r",(?: ?,)+(?= |$)")  # of a list of templates, for instance of sounds
_LITERAL, _QUOTE = "\x01", "\x02"  # mark what lies in <pre> and the like; XML has neither
_LITERALS = {1: None, 2: "'"}
_VARIANT = re.compile(r"-\{(?:[^{}|\n]{0,40}\|)?([^{}|\n]{0,200})\}-")


@dataclass(slots=True)
class _Frame:
    """kind: what opened it. parts: None where its content goes away; splits: of its arguments."""

    kind: str
    parts: list[str] | None
    opened: str = ""
    splits: list[int] = field(default_factory=list)

    def arguments(self) -> list[str]:
        assert self.parts is not None
        edges = [0, *self.splits, len(self.parts)]
        return ["".join(self.parts[a:b]) for a, b in pairwise(edges)]


def plain(text: str, dropped: frozenset[str]) -> str:
    """The text of a page, without blank ends; paragraphs are separated by blank lines.

    dropped: lower-case names of the namespaces whose links show no text: files, categories.
    """
    marked = _Scanner(text, dropped).scan()
    return "\n".join(_lines(marked)).strip()


class _Scanner:
    def __init__(self, text: str, dropped: frozenset[str]) -> None:
        self.text, self.dropped = "\n" + text.replace("\r\n", "\n"), dropped
        self.stack = [_Frame("page", [])]
        self.open: Counter[str] = Counter()
        self.missing: set[str] = set()  # closing marks that do not occur again

    def scan(self) -> str:
        at = 0
        text = self.text
        while match := _TOKEN.search(text, at):
            self.write(text[at : match.start()])
            at = self.token(match[0], match.end())
        self.write(text[at:])
        while len(self.stack) > 1:
            self.abandon()
        return "".join(self.stack[0].parts or ())

    def write(self, text: str) -> None:
        parts = self.stack[-1].parts
        if parts is not None and text:
            parts.append(text)

    def push(self, kind: str, shown: bool, opened: str) -> None:
        if len(self.stack) > DEPTH:
            return
        shown = shown and self.stack[-1].parts is not None
        self.stack.append(_Frame(kind, [] if shown else None, opened))
        self.open[kind] += 1

    def pop_to(self, kind: str) -> _Frame | None:
        """The innermost frame of that kind, off the stack with all that is unclosed in it."""
        if not self.open[kind]:
            return None
        while True:
            frame = self.stack.pop()
            self.open[frame.kind] -= 1
            if frame.kind == kind:
                return frame
            if frame.parts is not None:
                self.write(" ".join(frame.arguments()))

    def abandon(self) -> None:
        """The innermost frame was never closed: what is known of it is text after all."""
        frame = self.stack.pop()
        self.open[frame.kind] -= 1
        if frame.parts is not None:
            self.write("|".join(frame.arguments()))

    def token(self, token: str, end: int) -> int:
        """Does what a token asks for; where to go on."""
        top = self.stack[-1]
        if token == "|":
            if top.kind in ("link", "template") and top.parts is not None:
                top.splits.append(len(top.parts))
            else:
                self.write(token)
        elif token == "<!--":
            return self.skip_to("-->", end)
        elif token[0] == "<":
            return self.tag(token, end)
        elif token == "{{":
            name = _NAME.match(self.text, end)
            name = name[1].strip().lower() if name else ""
            self.push("template", name in _SHOWN or name.startswith("lang-"), name)
        elif token == "}}":
            self.template()
        elif token == "[[":
            self.push("link", not self.hidden(end), "")
        elif token == "]]":
            if top.kind == "url":  # [[File:a.jpg|of [http://b.org c]]]
                self.url()
                return end - 1
            if top.kind not in ("template", "table"):
                self.link()
        elif token == "[":
            self.push("url", True, "")
        elif token == "]":
            self.url()
        elif token == "\n":  # a heading: nothing that is open now was meant to be
            while len(self.stack) > 1:
                self.abandon()
            self.write(token)
        elif token.endswith("{|"):
            self.write("\n")
            self.push("table", False, "")
        elif not self.pop_to("table"):
            self.write("\n")
        return end

    def skip_to(self, mark: str, at: int) -> int:
        """Past the next `mark`; `at` itself if there is none."""
        found = -1 if mark in self.missing else self.text.find(mark, at)
        if found < 0:
            self.missing.add(mark)
            return at
        return found + len(mark)

    def tag(self, token: str, end: int) -> int:
        match = _TAG.match(token)
        if match is None:
            return end
        closing, name, rest = match[1], match[2].lower(), match[3]
        if name in LITERAL_TAGS and not closing and not rest.endswith("/"):
            mark = f"</{match[2]}>"
            after = self.skip_to(mark, end)
            if after != end:
                content = self.text[end : after - len(mark)].replace("'", _QUOTE)
                self.write(content.replace("\n", "\n" + _LITERAL))
            return after
        if name in DROPPED_TAGS:
            if closing:
                self.pop_to(name)
            elif not rest.endswith("/"):
                self.push(name, False, "")
        elif name in ("br", "p", "div", "li", "tr", "hr", "blockquote", "center", "poem"):
            self.write("\n")
        elif name in ("td", "th"):
            self.write(" ")
        return end

    def hidden(self, at: int) -> bool:
        """Whether a link from there is to a file, a category, or the same page elsewhere."""
        match = _NAMESPACE.match(self.text, at)
        if match is None:
            return False
        name = match[1].lower().replace("_", " ")
        return name in self.dropped or (_LANGUAGE.fullmatch(match[1]) is not None)

    def template(self) -> None:
        """Ends a template: what a reader would see of it, for a few; nothing for the others."""
        frame = self.pop_to("template")
        if frame is None or frame.parts is None:
            return
        arguments = [part for part in frame.arguments()[1:] if "=" not in part]
        name = frame.opened
        number = 1 if name.startswith("lang-") else _SHOWN[name]
        if len(arguments) >= number:
            last = number + 1 if name in _WITH_NEXT else number
            self.write(" ".join(argument.strip() for argument in arguments[number - 1 : last]))

    def link(self) -> None:
        frame = self.pop_to("link")
        if frame is None or frame.parts is None:
            return None
        target, *labels = frame.arguments()
        if labels and labels[-1].strip():
            return self.write(labels[-1])
        target = target.strip().removeprefix(":")
        return self.write(target.partition("(")[0].strip() if labels else target)

    def url(self) -> None:
        if self.stack[-1].kind != "url":
            return self.write("]")
        frame = self.pop_to("url")
        if frame is not None and frame.parts is not None:
            self.write("".join(frame.parts).partition(" ")[2])
        return None


def _lines(text: str) -> Iterator[str]:
    """Tidy lines: a heading only where text follows it, one blank line between texts."""
    text = _VARIANT.sub(r"\1", _SWITCH.sub("", _QUOTES.sub("", html.unescape(text))))
    headings: list[tuple[int, str]] = []
    gap = False
    for raw in text.split("\n"):
        literal = raw.startswith(_LITERAL)
        line = (raw.rstrip() if literal else _tidy(raw)).translate(_LITERALS)
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
    """Of a heading, 1 to 6; 0 for other lines."""
    if not line.startswith("="):
        return 0
    left, right = len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("="))
    level = min(left, right, 6)
    return level if 2 * level < len(line) else 0


def _tidy(line: str) -> str:
    """One line without markers and without what is left of templates that were taken out."""
    line = _SPACES.sub(" ", line).strip()
    if marker := _LIST.match(line):
        item = line[marker.end() :]
        line = f"- {item}" if item and marker[0][0] in "*#" else item
    line = _COMMAS.sub(",", _BEFORE.sub(r"\1", _OPENING.sub("(", _EMPTY.sub("", line))))
    return "" if not line.strip("-|* ") else line
