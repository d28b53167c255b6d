"""Convert wikitext to plain text, in one pass over its brackets and in linear time.

Comments, tables, references, files and categories are removed, and templates except for the text
that they show inside sentences; links become their labels; headings, paragraphs and list items
stay. mwparserfromhell parses the language more fully, but at a twentieth of the speed, and needs
minutes for a few thousand unclosed `<ref>`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

from llamac.data.formats.templates import PARSER_FUNCTIONS, Arguments, Rule, rule
from llamac.data.formats.wikilines import EQUALS, LITERAL, QUOTE, tidy
from llamac.data.formats.wikis import SITES

DEPTH = 100  # deepest nesting of brackets; MediaWiki's limit is 40
RETRIES = 2  # re-reads of a section, each with unclosed brackets taken as text

# fmt: off
# Tags of MediaWiki's extensions: their content is not wikitext, and ends at the next closing tag of
# that name.
DROPPED_TAGS = frozenset((
    "ref", "references", "gallery", "timeline", "imagemap", "score", "graph", "hiero", "mapframe",
    "maplink", "templatestyles", "indicator", "inputbox", "categorytree", "templatedata", "phonos",
    "style", "script",
))
LITERAL_TAGS = frozenset(("nowiki", "pre", "syntaxhighlight", "source", "math", "chem", "ce"))
FORMULAS = frozenset(("math", "chem", "ce"))  # shown as source, on one line
# Tags at which a line ends.
LINES = frozenset((
    "br", "p", "div", "li", "tr", "hr", "blockquote", "center", "poem", "dd", "dt", "ul", "ol",
))
# fmt: on

_TOKEN = re.compile(
    r"\n[ \t:*#;]*\{\||\n[ \t]*\|\}(?!\})|\n(?==)|\{\{|\}\}|\[\[|\]\]|\||<!--"
    r"|</?[A-Za-z][A-Za-z0-9]*(?:[\s/][^<>]*)?>|\[(?=(?:https?:|ftp:)?//)|\]"
)
_TAG = re.compile(r"<(/?)([A-Za-z0-9]+)([^<>]*)>")
_NAME = re.compile(r"[ \t\n]*+([^|{}\[\]<>#\n]{0,60})")
_NAMESPACE = re.compile(r"[ \t]*+([^|:{}\[\]<>\s][^|:{}\[\]<>\n]{0,60}+):")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]{1,12}){0,3}")
_REF = re.compile(r"<[rR][eE][fF](?:\s[^<>]*)?(?<!/)>")
_POWER = re.compile(r"[-+−–]?[0-9]")
_GAPS = " (\xa0[“„«"
_NOWIKI = re.compile(r"</?nowiki[ \t]*/?>", re.I)


@dataclass(slots=True)
class _OpenBracket:
    """An open bracket.

    kind: what opened it. parts: its content, None if that is dropped; splits: the bounds of its
    arguments. start: its position in the text; before: number of the page's parts at that time.
    """

    kind: str
    parts: list[str] | None
    rule: Rule | None = None
    start: int = 0
    before: int = 0
    splits: list[int] = field(default_factory=list)

    def arguments(self) -> list[str]:
        assert self.parts is not None
        edges = [0, *self.splits, len(self.parts)]
        return ["".join(self.parts[a:b]) for a, b in pairwise(edges)]


def plain(text: str, dropped: frozenset[str], language: str = "") -> str:
    """Convert a page's wikitext to plain text; blank lines separate paragraphs.

    dropped: lower-case names of the namespaces whose links are removed: files, categories.
    language: code of the wiki's language, for its templates; "" if unknown.
    """
    return tidy(_WikitextScanner(text, dropped, language).scan())


@cache
def _closing(name: str) -> re.Pattern[str]:
    either = "".join(f"[{letter}{letter.upper()}]" for letter in name)
    return re.compile(rf"</{either}\s*+>")


class _WikitextScanner:
    def __init__(self, text: str, dropped: frozenset[str], language: str) -> None:
        self.text = "\n" + text.replace("\r\n", "\n").replace("\r", "\n")
        self.dropped, self.language = dropped, language
        self.page: list[str] = []
        self.stack = [_OpenBracket("page", self.page)]
        self.open: Counter[str] = Counter()
        self.ahead: dict[str, tuple[int, int]] = {}  # next position of each mark, and its end
        self.unclosed: set[int] = set()  # brackets of this section that are taken as text
        self.retries = RETRIES

    def scan(self) -> str:
        at = 0
        text = self.text
        while True:
            while match := _TOKEN.search(text, at):
                self.write(text[at : match.start()])
                at = self.token(match[0], match.start(), match.end())
            self.write(text[at:])
            if (at := self.end_section(len(text))) == len(text):
                return "".join(self.page)

    def write(self, text: str) -> None:
        parts = self.stack[-1].parts
        if parts is not None and text:
            parts.append(text)

    def write_whole(self, text: str) -> None:
        """Write text that is not an argument's name, whatever characters it contains."""
        self.write(text.replace("=", EQUALS) if self.open["template"] else text)

    def push(self, kind: str, shown: bool, start: int, rule: Rule | None = None) -> None:
        if len(self.stack) > DEPTH:
            return
        shown = shown and self.stack[-1].parts is not None
        self.stack.append(_OpenBracket(kind, [] if shown else None, rule, start, len(self.page)))
        self.open[kind] += 1

    def pop_to(self, kind: str) -> _OpenBracket | None:
        """Pop the innermost frame of that kind, and all unclosed frames within it."""
        if not self.open[kind]:
            return None
        while True:
            frame = self.stack.pop()
            self.open[frame.kind] -= 1
            if frame.kind == kind:
                return frame
            if frame.parts is not None:
                self.write(" ".join(frame.arguments()))

    def end_section(self, at: int) -> int:
        """End a section: brackets still open count as text. Return where to continue.

        If an unclosed bracket hides text, the section is read again from there with those
        brackets as text, at most `RETRIES` times.
        """
        unclosed = self.stack[1:]
        if self.retries and any(frame.parts is None for frame in unclosed):
            self.retries -= 1
            self.unclosed |= {frame.start for frame in unclosed}
            del self.stack[1:], self.page[unclosed[0].before :]
            self.open.clear()
            self.ahead.clear()
            return unclosed[0].start
        while len(self.stack) > 1:
            frame = self.stack.pop()
            if frame.parts is not None:
                self.write("|".join(frame.arguments()))
        self.open.clear()
        self.unclosed.clear()
        self.retries = RETRIES
        return at

    def token(self, token: str, start: int, end: int) -> int:
        """Process a token; return where to continue."""
        top = self.stack[-1]
        if token == "|":
            if top.kind in ("link", "template") and top.parts is not None:
                top.splits.append(len(top.parts))
            else:
                self.write(token)
        elif token[0] == "<":
            if token == "<!--":
                return self.next("-->", end)[1]
            return self.tag(token, end)
        elif token == "\n":
            if (restart := self.end_section(start)) != start:
                return restart
            self.write(token)
        elif start in self.unclosed:
            if token.endswith("{|"):
                return max(end, self.text.find("\n", end))
        elif token == "{{":
            rule = self.rule(start, end)
            self.push("template", rule is not None, start, rule)
        elif token == "}}":
            self.template()
        elif token == "[[":
            self.push("link", not self.hidden(end), start)
        elif token == "]]":
            if top.kind == "url":  # [[File:a.jpg|of [http://b.org c]]]
                self.url()
                return end - 1
            if top.kind not in ("template", "table"):
                self.link()
        elif token == "[":
            self.push("url", True, start)
        elif token == "]":
            self.url()
        elif token.endswith("{|"):
            self.write("\n")
            self.push("table", False, start)
        elif not self.pop_to("table"):
            self.write("\n")
        return end

    def next(self, mark: str, at: int) -> tuple[int, int]:
        """Return (start, end) of the next closing tag, `<ref>` or other mark from `at`.

        If there is none, that is (end of the text, `at`). Each position is searched once and
        cached.
        """
        span = self.ahead.get(mark)
        if span is None or span[0] < at:
            if mark.isalpha():
                match = (_REF if mark == "REF" else _closing(mark)).search(self.text, at)
                span = match.span() if match else (len(self.text), 0)
            else:
                start = self.text.find(mark, at)
                span = (start, start + len(mark)) if start >= 0 else (len(self.text), 0)
            self.ahead[mark] = span
        return span if span[1] else (span[0], at)

    def tag(self, token: str, end: int) -> int:
        match = _TAG.match(token)
        if match is None:
            return end
        closing, name, rest = match[1], match[2].lower(), match[3].rstrip()
        opening = not closing and not rest.endswith("/")
        if name in DROPPED_TAGS:
            return self.extension(name, rest, end)[1] if opening else end
        if name in LITERAL_TAGS and opening:
            start, after = self.extension(name, rest, end)
            if after != end:
                self.literal(name, self.text[end:start])
            return after
        if name in LINES:
            self.write("\n")
        elif name in ("td", "th"):
            self.write(" ")
        elif name == "sup" and opening and _POWER.match(self.text, end):
            parts = self.stack[-1].parts
            if parts and parts[-1][-1].isdigit():
                parts.append("^")  # keep 10<sup>6</sup> distinct from 106
        return end

    def extension(self, name: str, rest: str, end: int) -> tuple[int, int]:
        """Return (end of the content, end of the closing tag); (`end`, `end`) if unclosed.

        As in MediaWiki, a tag ends at the next closing one. A reference counts as unclosed if a
        heading begins before that, or, if it has a name, another reference: its slash was
        forgotten.
        """
        start, after = self.next(name, end)
        if name == "ref" and self.next("\n==", end)[0] < start:
            return end, end
        if name == "ref" and "=" in rest and self.next("REF", end)[0] < start:
            return end, end
        return (start, after) if after != end else (end, end)

    def literal(self, name: str, content: str) -> None:
        """Write content that is not wikitext: formulas as source, other content line by line."""
        if name in FORMULAS:
            content = " ".join(content.split())
        elif name == "pre":
            content = _NOWIKI.sub("", content)
        content = content.replace("'", QUOTE).replace("\n", "\n" + LITERAL)
        self.write_whole(content)

    def hidden(self, at: int) -> bool:
        """Return whether the link at `at` is to a file, a category, or another language."""
        match = _NAMESPACE.match(self.text, at)
        if match is None:
            return False
        name = match[1].rstrip()
        if name.lower().replace("_", " ") in self.dropped:
            return True
        return _LANGUAGE.fullmatch(name) is not None and name not in SITES

    def rule(self, start: int, end: int) -> Rule | None:
        """Return the rule of the template that opens at `start`; its name begins at `end`."""
        name = _NAME.match(self.text, end)
        before = self.text[start - 1]
        within = before in _GAPS
        if within:  # at the start of a line are notes on sections and pictures
            line = self.text.rfind("\n", max(0, start - 100), start) + 1
            within = not line or bool(self.text[line:start].strip(" *:#;"))
        within = within or (before == "|" and self.stack[-1].kind == "template")
        return rule(name[1].rstrip() if name else "", self.language, within)

    def template(self) -> None:
        """Close the open template and write the text that it shows on the page."""
        frame = self.pop_to("template")
        if frame is None or frame.parts is None or frame.rule is None:
            return
        head, *rest = frame.arguments()
        function, colon, first = head.partition(":")
        if colon and function.strip().lower() in PARSER_FUNCTIONS:
            rest.insert(0, first)
        positional, by_name = [], {}
        for argument in rest:
            name, equals, value = argument.partition("=")
            if equals:
                by_name[name.strip().lower()] = value.strip()
            else:
                positional.append(argument.strip())
        self.write_whole(frame.rule(Arguments(positional, by_name)))

    def link(self) -> None:
        frame = self.pop_to("link")
        if frame is None or frame.parts is None:
            return None
        target, *labels = frame.arguments()
        if labels and labels[-1].strip():
            return self.write_whole(labels[-1])
        target = target.strip().removeprefix(":")
        return self.write_whole(target.partition("(")[0].strip() if labels else target)

    def url(self) -> None:
        if self.stack[-1].kind != "url":
            return self.write("]")
        frame = self.pop_to("url")
        if frame is not None and frame.parts is not None:
            self.write_whole("".join(frame.parts).partition(" ")[2])
        return None
