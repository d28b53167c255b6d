"""Expand the LaTeX macros that a text defines itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

DEPTH = 16  # deepest nesting of macros
GROWTH = 4  # the expansion may have this many times the text's size, plus SLACK characters
SLACK = 1 << 20
BODY = 2000  # longest macro, characters: longer ones are programs


@dataclass(frozen=True, slots=True)
class _Macro:
    arguments: int
    default: str | None
    body: str


_CONTROL = re.compile(r"\\(?:([A-Za-z@]+)\*?|[^A-Za-z@])", re.S)
_DEFINES = frozenset(("newcommand", "renewcommand", "providecommand", "DeclareRobustCommand"))
_OPERATOR = "DeclareMathOperator"
_NAME = re.compile(r"\s*(?:\{\s*\\([A-Za-z@]+|[^A-Za-z@\s])\s*\}|\\([A-Za-z@]+|[^A-Za-z@\s]))")
_COUNT = re.compile(r"\s*\[\s*([0-9])\s*\]")
_DEFAULT = re.compile(r"\s*\[([^\[\]]{0,2000})\]")
_PARAMETERS = re.compile(r"[ \t]*((?:#[1-9][ \t]*)*)(?=\{)")
_BRACES = re.compile(r"[{}]|\\.", re.S)
_PARAMETER = re.compile(r"(\\[A-Za-z]+)?#([1-9])")
_ADDRESS = re.compile(r"\s*+(\0[0-9]+\0|\\(?:url|path|nolinkurl)\s*+\{[^{}]{0,2000}+\})")
_SECTIONS = frozenset(
    ("part", "chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph")
)


def expand_macros(text: str) -> str:
    """Expand the macros that a text defines, and remove their definitions.

    Definitions that cannot be parsed, and macros nested deeper than DEPTH, stay unchanged. Macros
    that redefine a section command, contain `@` or are longer than BODY are not expanded. Expansion
    ends once GROWTH times the text's length plus SLACK characters have been scanned or inserted.
    """
    expander = _Expander(GROWTH * len(text) + SLACK)
    return expander.expand(text, frozenset())


class _Expander:
    def __init__(self, budget: int) -> None:
        self.macros: dict[str, _Macro] = {}
        self.budget = budget  # characters that may still be scanned or inserted

    def expand(self, text: str, active: frozenset[str]) -> str:
        pieces: list[str] = []
        at = done = 0
        while self.budget > 0 and (match := _CONTROL.search(text, at)):
            at = match.end()
            name = match[1] or match[0][1]
            replacement = self.definition(name, text, at) if match[1] else None
            if replacement is None and name in self.macros and name not in active:
                starred = match[0].endswith("*") and match[1]
                replacement = self.use(name, text, at - bool(starred), active)
            if replacement is not None:
                pieces += (text[done : match.start()], replacement[0])
                at = done = replacement[1]
        pieces.append(text[done:])
        return "".join(pieces)

    def definition(self, name: str, text: str, at: int) -> tuple[str, int] | None:
        """Record a definition and return ("", its end); None if there is none at `at`."""
        if name not in _DEFINES and name not in ("def", "urldef", _OPERATOR):
            return None
        if not (name_match := _NAME.match(text, at)):
            return None
        macro, at, count, default = name_match[1] or name_match[2], name_match.end(), 0, None
        if name == "urldef":
            return self.address(macro, text, at)
        if name == "def":
            if not (parameters := _PARAMETERS.match(text, at)):
                return None
            at, count = parameters.end(), parameters[1].count("#")
        elif name != _OPERATOR and (match := _COUNT.match(text, at)):
            at, count = match.end(), int(match[1])
            if match := _DEFAULT.match(text, at):
                at, default = match.end(), match[1]
        if (body := self.argument(text, at)) is None:
            return None
        content, end = body
        if name == _OPERATOR:
            content = rf"\operatorname{{{content}}}"
        if macro in _SECTIONS or "@" in content or "@" in macro or len(content) > BODY:
            self.macros.pop(macro, None)
        else:
            self.macros[macro] = _Macro(count, default, content.replace(r"\xspace", ""))
        return "", end

    def address(self, macro: str, text: str, at: int) -> tuple[str, int] | None:
        r"""Record `\urldef\name\url{...}`, whose address may have been taken out as verbatim."""
        if not (match := _ADDRESS.match(text, at)):
            return None
        self.macros[macro] = _Macro(0, None, match[1])
        return "", match.end()

    def use(self, name: str, text: str, at: int, active: frozenset[str]) -> tuple[str, int] | None:
        """Return (the expansion of a macro with its arguments, their end), or None."""
        macro = self.macros[name]
        arguments: list[str] = []
        if macro.default is not None:
            match = _DEFAULT.match(text, at)
            arguments.append(match[1] if match else macro.default)
            at = match.end() if match else at
        while len(arguments) < macro.arguments:
            if (argument := self.argument(text, at)) is None:
                return None
            arguments.append(argument[0])
            at = argument[1]

        def substitute(match: re.Match[str]) -> str:
            number = int(match[2])
            argument = arguments[number - 1] if number <= len(arguments) else ""
            gap = " " if match[1] and argument[:1].isalpha() else ""
            return f"{match[1] or ''}{gap}{argument}"

        content = _PARAMETER.sub(substitute, macro.body)
        self.budget -= len(content)
        if self.budget <= 0:
            return None
        if len(active) < DEPTH:
            content = self.expand(content, active | {name})
        # `{}` or a space only ends the macro's name, which its expansion does not need.
        if not macro.arguments and text.startswith("{}", at):
            at += 2
        ends_in_name = re.search(r"\\[A-Za-z]+\Z", content) is not None
        return content + (" " if ends_in_name and text[at : at + 1].isalpha() else ""), at

    def argument(self, text: str, at: int) -> tuple[str, int] | None:
        """Return (the TeX argument at `at`, its end): a group, or one token."""
        while at < len(text) and text[at].isspace():
            at += 1
        if at >= len(text) or text[at] == "}":
            return None
        if text[at] != "{":
            token = _CONTROL.match(text, at)
            end = token.end() if token else at + 1
            return text[at:end], end
        depth = 0
        for match in _BRACES.finditer(text, at):
            depth += {"{": 1, "}": -1}.get(match[0], 0)
            if depth == 0:
                return text[at + 1 : match.start()], match.end()
            if match.end() - at > self.budget:
                break
        self.budget -= len(text) - at  # an unclosed brace: the whole rest was scanned in vain
        return None
