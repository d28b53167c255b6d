"""Remove comments from LaTeX source, and R code from Sweave source.

Verbatim passages are replaced by placeholders first and restore last, so that they stay unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

# Environments kept unchanged, environments removed; commands for code and for addresses.
# fmt: off
VERBATIM = frozenset((
    "verbatim", "verbatim*", "Verbatim", "Verbatim*", "BVerbatim", "LVerbatim", "verbatimtab",
    "lstlisting", "minted", "minted*", "tcblisting", "alltt", "semiverbatim", "spverbatim",
    "Sinput", "Soutput", "Scode", "CodeInput", "CodeOutput", "Code",
))
DROPPED = frozenset(("comment", "filecontents", "filecontents*"))
CODE = frozenset(("verb", "Verb", "spverb", "lstinline", "mintinline", "mint"))
ADDRESSES = frozenset(("url", "path", "nolinkurl", "burl", "href", "doi"))
# fmt: on
ARGUMENT = 2000  # longest address or inline code, characters
BRACES = 16  # deepest nesting of braces in one

_DEFINED = re.compile(
    r"\\(?:lstnewenvironment|newtcblisting|DefineVerbatimEnvironment)"
    r"\s*+\{(?P<environment>[A-Za-z]+\*?)\}"
    r"|\\newminted\s*+(?:\[(?P<minted>[A-Za-z]+)\]|\{(?P<language>[A-Za-z]+)\})"
    r"|\\newmintinline\s*+\[(?P<inline>[A-Za-z]+)\]"
    r"|\\DeclareUrlCommand\s*+\{?\\(?P<address>[A-Za-z]+)"
    r"|\\(?:(?:re)?newcommand|def|let)\*?\s*+\{?\\(?P<alias>[A-Za-z]+)\}?\s*+=?\s*+\{?\s*+"
    r"\\(?P<original>verb|lstinline|url|path|nolinkurl)(?![A-Za-z])"
    r"(?:\[[^\[\]\n]{0,300}\])?+(?!\s*+\{[^{}]{0,99}#)"
    r"|\\(?:MakeShortVerb|lstMakeShortInline|DefineShortVerb)\*?"
    r"\s*+(?:\[[^\]\n]{0,300}\])?\s*+\{?\\(?P<short>[^A-Za-z\s\\%{}])"
)
_CONTINUED = re.compile(r"%[ \t]*+\n[ \t]*+")
_CONTINUES = re.compile(r"\n[ \t]*+(?!\n)")
_PARAMETER = re.compile(r"#[1-9]")
_OPTIONS = re.compile(r"[ \t]*+\[[^\[\]\n]{0,300}\]")
_LANGUAGE = re.compile(r"[ \t]*+\{[A-Za-z0-9+#_. -]{1,40}\}")
_PAIRS = re.compile(r"[{}]|\\.|\n[ \t]*+\n", re.S)
_CHUNK = re.compile(
    r"^<<[^\n]*>>=[^\n]*\n(?:(?!@[ \t]*(?:%[^\n]*)?$)[^\n]*\n)*(?:@[^\n]*\n?)?", re.M
)
_INLINE = re.compile(r"\\Sexpr\{[^{}\n]{0,500}\}")
_PLACEHOLDER = re.compile("\0([0-9]+)\0")


def remove_r_code(text: str) -> str:
    """Remove the R code of a Sweave or knitr document, inline and in chunks."""
    return _INLINE.sub("", _CHUNK.sub("", text))


@dataclass(slots=True)
class Verbatim:
    """Verbatim passages of a text, replaced in it by placeholders: their index between NULs.

    texts: the passages by index.
    """

    texts: list[str] = field(default_factory=list)

    def store(self, text: str) -> str:
        """Store a passage and return its placeholder."""
        self.texts.append(text)
        return f"\0{len(self.texts) - 1}\0"

    def size(self, text: str) -> int:
        """Return the length of `restore(text)`, in which macros may have repeated passages."""
        return len(text) + sum(
            len(self.texts[int(match[1])]) for match in _PLACEHOLDER.finditer(text)
        )

    def restore(self, text: str) -> str:
        """Return the text with all placeholders replaced by their passages."""
        return _PLACEHOLDER.sub(lambda match: self.texts[int(match[1])], text)


@dataclass(frozen=True, slots=True)
class Dialect:
    r"""Commands and environments for verbatim text in a paper, including its own definitions.

    environments: their names. code: commands such as `\verb`. addresses: commands such as `\url`.
    shorts: characters that delimit verbatim text without a command.
    """

    environments: frozenset[str] = VERBATIM
    code: frozenset[str] = CODE
    addresses: frozenset[str] = ADDRESSES
    shorts: frozenset[str] = frozenset()


def dialect(texts: Iterable[str]) -> Dialect:
    """Return the standard verbatim commands and those that a paper's files define.

    texts: contents of the files.
    """
    environments, code, addresses = set[str](VERBATIM), set[str](CODE), set[str](ADDRESSES)
    shorts: set[str] = set()
    for text in texts:
        for match in _DEFINED.finditer(text):
            kind, name = match.lastgroup, match[match.lastgroup or 0]
            if kind == "original":
                (code if name in CODE else addresses).add(match["alias"])
            elif kind == "language":
                environments.add(f"{name}code")
            else:
                names = {"inline": code, "address": addresses, "short": shorts}
                names.get(kind or "", environments).add(name)
    return Dialect(*map(frozenset, (environments, code, addresses, shorts)))


@lru_cache(maxsize=64)
def _marks(dialect: Dialect) -> re.Pattern[str]:
    environments = "|".join(map(re.escape, sorted(dialect.environments | DROPPED)))
    commands = "|".join(sorted(dialect.code | dialect.addresses))
    shorts = "".join(map(re.escape, sorted(dialect.shorts)))
    return re.compile(
        rf"\\begin\{{(?P<environment>{environments})\}}|\\(?P<command>{commands})(?![A-Za-z])\*?"
        r"|\\[\\%]|%(?P<comment>[^\n]*+)"
        + (rf"|(?<!\\)(?P<short>[{shorts}])" if shorts else "|(?P<short>(?!))")
    )


def remove_comments(text: str, verbatim: Verbatim, dialect: Dialect = Dialect()) -> str:
    """Return the text without its comments, and with verbatim passages moved to `verbatim`.

    Environments such as `comment` (`DROPPED`) are removed too. Escaped per cent signs stay, as do
    those in code and addresses. As in TeX, a comment includes its line end, unless that ends a
    paragraph.
    """
    pieces: list[str] = []
    missing: set[str] = set()
    marks = _marks(dialect)
    at = 0
    while match := marks.search(text, at):
        pieces.append(text[at : match.start()])
        start, at = at, match.end()
        if name := match["environment"]:
            close = f"\\end{{{name}}}"
            end = -1 if name in missing else text.find(close, at)
            if end < 0:
                missing.add(name)
                pieces.append(match[0])
                continue
            at = end + len(close)
            if name not in DROPPED:
                pieces.append(verbatim.store(text[match.start() : at]))
        elif match["command"] or match["short"]:
            address = match["command"] in dialect.addresses
            end = _end(text, at - bool(match["short"]), match["command"] or "", address)
            passage = text[match.start() : end]
            if address:
                passage = _CONTINUED.sub("", passage)
            if not end or (passage[-1] == "}" and _PARAMETER.search(passage)):  # within a macro
                pieces.append(match[0])
                continue
            at = end
            is_plain = address and "%" not in passage.replace(r"\%", "")
            pieces.append(passage if is_plain else verbatim.store(passage))
        elif match["comment"] is None:
            pieces.append(match[0])
        elif not (before := pieces[-1].rpartition("\n"))[2].strip() and (
            before[1] or not start or text[start - 1] == "\n"
        ):  # a whole line
            pieces[-1] = before[0] + before[1]
            at += 1
        elif indent := _CONTINUES.match(text, at):
            at = indent.end()
    pieces.append(text[at:])
    return "".join(pieces)


def _end(text: str, at: int, command: str, address: bool) -> int:
    """Return where a command's verbatim argument ends; 0 if it has none."""
    if command not in ("verb", "Verb", "spverb", "") and (match := _OPTIONS.match(text, at)):
        at = match.end()
    if command.startswith("mint") and (match := _LANGUAGE.match(text, at)):
        at = match.end()
    while address and text[at : at + 1] in (" ", "\t"):
        at += 1
    sign = text[at : at + 1]
    if sign == "{" and command not in ("verb", "Verb"):
        depth = 0
        for number, match in enumerate(_PAIRS.finditer(text, at, at + ARGUMENT)):
            depth += {"{": 1, "}": -1}.get(match[0], 0)
            if depth == 0:
                return match.end()
            if number > BRACES or match[0][0] == "\n":
                break
        return 0
    if not sign or sign.isspace() or sign.isalpha() or sign in "*}\0":
        return 0
    if address and sign not in '|!+"':
        return 0
    end = text.find(sign, at + 1, at + ARGUMENT)
    return end + 1 if end >= 0 and "\n" not in text[at:end] else 0
