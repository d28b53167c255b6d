"""Read LaTeX papers of arXiv as source, from the first section on (LLaMA paper, section 2.1).

Inputs are a file or a tar of a paper's files, possibly gzipped, as arXiv serves them; arXiv's bulk
archives of those; and Sweave files, without their R code. Comments and bibliography are removed,
and the author's own macros are expanded. meta: title; path of the main file.
"""

from __future__ import annotations

import codecs
import io
import os
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from itertools import islice

from llamac.data.document import Document
from llamac.data.formats.decoding import decode_text
from llamac.data.formats.sniff import CONTROLS
from llamac.data.formats.tex import Verbatim, dialect, remove_comments, remove_r_code
from llamac.data.formats.tex_macros import expand_macros
from llamac.data.formats.trees import ENTRY_BYTES, Entry, entries, is_tar
from llamac.runtime.data.sources.decompress import stem
from llamac.runtime.data.sources.records import accept_text
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source

SOURCES = (".tex", ".ltx", ".latex", ".rnw", ".rtex", ".snw")  # endings of LaTeX files
SWEAVE = (".rnw", ".rtex", ".snw")  # those with R code
PAPER_CHARS = 1 << 23  # longest paper, with all \input files
DEPTH = 8  # deepest nesting of \input
TITLE_CHARS = 2000  # longest title
CALL = 400  # cost of each \input, in characters, besides its text

_CLASS = re.compile(r"\\document(?:class|style)\b")
_BEGIN = re.compile(r"\\begin\s*+\{document\}")
_END = re.compile(r"\\end\s*+\{document\}|\\bye(?![A-Za-z])")
_ENDINPUT = re.compile(r"^\\endinput\b", re.M)
_INPUT = re.compile(
    r"\\(?:(?P<kind>(?:sub)?(?:import|inputfrom|includefrom))\*?\s*+"
    r"\{(?P<folder>[^{}\\#\n]{0,200}+)\}\s*+\{(?P<file>[^{}\\#\n]{1,200}+)\}"
    r"|(?P<plain>input|include|subfile|subfileinclude|includestandalone|InputIfFileExists)\*?"
    r"(?:\[[^\[\]\n]{0,300}+\])?"
    r"(?:\s*+\{(?P<braced>[^{}\\#]{1,400}+)\}|[ \t]++\"?(?P<bare>[\w./-]{1,200}+)\"?))"
)
_SECTION = re.compile(
    r"\\(?:part|chapter|(?:sub){0,2}section|(?:sub)?paragraph)\*?\s*+(?:\[[^\]]{0,500}\]\s*+)?\{"
)
_BIBLIOGRAPHY = re.compile(
    r"(?:\\(?:chapter|section)\*?\s*+\{\s*+(?:references|bibliography)\s*+\}\s*+)?"
    r"\\begin\s*+\{thebibliography\}",
    re.I,
)
_BIBLIOGRAPHY_END = re.compile(r"\\end\s*+\{thebibliography\}")
_CITATION_COMMANDS = re.compile(
    r"\\(?:bibliography|bibliographystyle|nocite|addbibresource)\s*+(?:\[[^\]\n]{0,200}\])?"
    r"\s*+\{[^{}]{0,2000}+\}|\\printbibliography\b(?:\[[^\]]{0,500}\])?"
)
_TITLE = re.compile(r"\\(?:plain)?title\s*+(?:\[[^\]]{0,300}\])?\s*+\{")
_BRACES = re.compile(r"[{}]|\\.", re.S)
_DECLARED = re.compile(
    rb"^(?:[^%\n\\]|\\[^\n])*?\\(?:usepackage|RequirePackage)\s*+\[([^\]]{1,300}+)\]\s*+"
    rb"\{[^{}\n]{0,200}?(?:inputen[cx]|codepage)",
    re.M,
)
_SWITCH = re.compile(rb"\\inputencoding\s*+\{\s*+([A-Za-z0-9-]{2,20})\s*+\}")
_EDITED = re.compile(
    rb"^%[^\n]{0,80}?(?:!\s*TEX\s+encoding\s*=|coding:)[ \t]*+([A-Za-z0-9_.-]+(?: [A-Za-z0-9-]+)*)",
    re.M | re.I,
)
_CJK = re.compile(rb"\\begin\s*+\{CJK\*?\}(?:\[[^\]]{0,40}\])?\{([A-Za-z0-9]{2,10})\}")
_OTHERS = (b"%!PS", b"%PDF", b"<", b"\x89PNG", b"PK")  # other formats in which arXiv serves papers


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield one document per paper; a directory, or a tar of loose TeX files, is one paper."""
    for paper, file, line in _papers(path, skipped):
        where = f"{file}:{line}"
        texts = _texts(paper, where, skipped)
        if not texts:
            continue
        verbatim, verbatim_commands = Verbatim(), dialect(texts.values())
        texts = {
            name: remove_comments(text, verbatim, verbatim_commands) for name, text in texts.items()
        }
        main, joined = join_inputs(texts)
        text = paper_body(expand_macros(joined)) if joined is not None else ""
        if joined is None or verbatim.size(text) > PAPER_CHARS:
            skipped.add("paper too long", where)
            continue
        title = _title(joined)
        text = verbatim.restore(text)
        text = "\n".join(line.rstrip() for line in text.split("\n"))
        text = re.sub(r"\n{3,}", "\n\n", text).strip("\n")
        if accept_text(text, where, skipped):
            meta = {"path": main}
            if title:
                meta["title"] = verbatim.restore(title)
            yield Document(f"{text}\n", file, line, meta)


def _title(text: str) -> str:
    """Return the first non-empty title."""
    for start in islice(_TITLE.finditer(text), 10):
        depth = 1
        for brace in _BRACES.finditer(text, start.end(), start.end() + TITLE_CHARS):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                if title := text[start.end() : brace.start()].replace("\\\\", " ").split():
                    return " ".join(title)
                break
    return ""


def paper_body(text: str) -> str:
    r"""Return the text from the first section to the end of the document, without bibliography.

    A text without sections is kept from its \begin{document}, or from its beginning.
    """
    if begin := _BEGIN.search(text):
        text = text[begin.end() :]
    if end := _END.search(text):
        text = text[: end.start()]
    if section := _SECTION.search(text):
        text = text[section.start() :]
    pieces, at = [], 0
    while begin := _BIBLIOGRAPHY.search(text, at):
        pieces.append(text[at : begin.start()])
        end = _BIBLIOGRAPHY_END.search(text, begin.end())
        at = end.end() if end else len(text)
    return _CITATION_COMMANDS.sub("", "".join((*pieces, text[at:])))


# --- A paper's files ---------------------------------------------------------------------------


def _is_source(name: str) -> bool:
    return stem(name).endswith(SOURCES)


def _is_paper(name: str) -> bool:
    """Return whether a file of a monthly archive holds a paper."""
    return _is_source(name) or name.endswith(".gz")


def _papers(path: str, skipped: Skipped) -> Iterator[tuple[list[Entry], str, int]]:
    """Yield (files of a paper, path of the input, number in it)."""
    if os.path.isdir(path):
        if paper := list(entries(path, skipped, _is_source)):
            yield paper, path, 1
        else:
            skipped.add("no TeX in directory", path)
        return
    if not is_tar(path):
        for entry in entries(path, skipped):
            yield _unpack(entry, skipped), path, 1
        return
    loose_files: list[Entry] = []
    has_papers, before = False, skipped.counts.total()
    for entry in entries(path, skipped, _is_paper):
        has_papers = True
        if entry.name.endswith(".gz"):
            yield _unpack(entry, skipped), path, entry.line
        else:
            loose_files.append(entry)
    if loose_files:
        yield loose_files, path, loose_files[0].line
    elif not has_papers and skipped.counts.total() == before:
        skipped.add("no TeX in archive", path)


def _unpack(entry: Entry, skipped: Skipped) -> list[Entry]:
    """Decompress a file of an archive; return the TeX files in it."""
    data, where = entry.data, f"{entry.file}:{entry.line}"
    if data.startswith(b"\x1f\x8b"):
        try:
            machine = zlib.decompressobj(zlib.MAX_WBITS | 16)
            data = machine.decompress(data, ENTRY_BYTES)
        except zlib.error:
            data = b""
            machine = None
        if machine is None or not machine.eof:
            skipped.add("file too long" if len(data) == ENTRY_BYTES else "broken gzip", where)
            return []
    if not _is_tar(data):
        if not _is_source(entry.name) and (data.startswith(_OTHERS) or b"\\" not in data):
            skipped.add("not TeX", where)
            return []
        return [Entry(entry.name, data, entry.file, entry.line)]
    files = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if member.isreg() and not member.issparse() and _is_source(member.name):
                    content = archive.extractfile(member)
                    name = member.name.removeprefix("./")
                    files.append(
                        Entry(name, content.read() if content else b"", entry.file, entry.line)
                    )
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        skipped.add("broken tar", where)
    if not files:
        skipped.add("no TeX in archive", where)
    return files


def _is_tar(data: bytes) -> bool:
    """Return whether the first header's checksum is that of a tar, of any version."""
    try:
        tarfile.TarInfo.frombuf(data[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _texts(paper: list[Entry], where: str, skipped: Skipped) -> dict[str, str]:
    """Return the decoded text of each file of a paper, by name; skip files that are not text."""
    texts: dict[str, str] = {}
    paper_encodings: list[str] | None = None  # encodings that any file declares, computed if needed
    for entry in paper:
        data = entry.data
        if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            data = data.translate(None, CONTROLS[1:])  # all bytes except NUL
        try:
            text: str | None = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            if paper_encodings is None:
                paper_encodings = [
                    name for other in paper for name in _declared_encodings(other.data)
                ]
            text = _decode(data, _declared_encodings(data) or paper_encodings)
        if text is None:
            skipped.add("unknown encoding", f"{where} {entry.name}")
        elif "\0" in text:
            skipped.add("NUL in text", f"{where} {entry.name}")
        else:
            text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
            sweave = stem(entry.name).endswith(SWEAVE)
            texts[entry.name] = remove_r_code(text) if sweave else text
    return texts


def _declared_encodings(data: bytes) -> list[str]:
    """Return the encodings that a file declares, most likely first (the last option)."""
    names: list[bytes] = []
    if b"inputen" in data or b"codepage" in data:
        for match in _DECLARED.finditer(data):
            names += reversed(re.sub(rb"%[^\n]*", b"", match[1]).split(b","))
    names += _CJK.findall(data)
    names += (match[1] for match in islice(_EDITED.finditer(data[:4096]), 1))
    return [name.decode("ascii", "replace").strip() for name in names]


def _decode(data: bytes, names: list[str]) -> str | None:
    """Decode a file that is not UTF-8, following its own switches of encoding.

    names: encodings that the file or its paper declares.
    """
    pieces: list[str] = []
    at = 0
    for switch in _SWITCH.finditer(data):
        text = decode_text(data[at : switch.end()], names)
        if text is None:
            return None
        pieces.append(text)
        at, names = switch.end(), [switch[1].decode()]
    text = decode_text(data[at:], names)
    return None if text is None else "".join((*pieces, text))


# --- Files within files ------------------------------------------------------------------------


def join_inputs(texts: dict[str, str]) -> tuple[str, str | None]:
    """Return (name of the main file, its text with all inputs included).

    texts: text of each file, by name. The main file has a document class; of several, it is the
    longest with its inputs. Without one, all files that no other file includes are joined, in the
    order of their names, and the first is named. The text is None if it is too long.
    """
    join = _InputJoiner(texts)
    inputs = {join.resolve(call, "", name)[0] for name in texts for call in join.calls[name]}
    roots = [name for name in sorted(texts) if name not in inputs] or sorted(texts)
    mains = [name for name in sorted(texts) if _CLASS.search(texts[name])]
    mains = [name for name in mains if name in roots] or mains
    if mains:
        roots = [max(mains, key=join.size)]
    pieces = [join.expand(name, posixpath.dirname(name), ()) for name in roots]
    return roots[0], "\n\n".join(pieces) if join.budget > 0 else None


class _InputJoiner:
    r"""Replaces \input commands by the files they name, within a bound on the total work."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = {name: _ENDINPUT.split(text, 1)[0] for name, text in texts.items()}
        self.calls = {name: list(_INPUT.finditer(text)) for name, text in self.texts.items()}
        self.budget = PAPER_CHARS  # characters, plus a cost for each call
        self.sizes: dict[str, int] = {}

    def resolve(self, call: re.Match[str], base: str, by: str) -> tuple[str, str]:
        r"""Resolve an \input: return (file or "", folder for the inputs of that file)."""
        target = call["file"] or call["braced"] or call["bare"]
        target = posixpath.join((call["folder"] or "").strip(), target.strip().strip('"'))
        for folder in dict.fromkeys((base, posixpath.dirname(by), "")):
            path = posixpath.normpath(posixpath.join(folder, target))
            for name in (path, *(path + ending for ending in SOURCES)):
                if name in self.texts:
                    moves = call["kind"] or call["plain"] in ("subfile", "subfileinclude")
                    return name, posixpath.dirname(name) if moves else base
        return "", base

    def size(self, name: str, depth: int = 0) -> int:
        """Estimate the length of `expand`; files that input each other count once."""
        if name not in self.sizes:
            self.sizes[name] = 0
            inner = (self.resolve(call, "", name)[0] for call in self.calls[name])
            deeper = sum(self.size(file, depth + 1) for file in inner if file and depth < DEPTH)
            self.sizes[name] = min(PAPER_CHARS, len(self.texts[name]) + deeper)
        return self.sizes[name]

    def expand(self, name: str, base: str, including: tuple[str, ...]) -> str:
        r"""Return a file's text with its inputs in place.

        An included file that is a document in itself (subfiles, standalone pictures) contributes
        only what is between its \begin{document} and \end{document}.
        """
        text = self.texts[name]
        first, last = 0, len(text)
        if including and _CLASS.search(text) and (begin := _BEGIN.search(text)):
            first = begin.end()
            end = _END.search(text, first)
            last = end.start() if end else last
        self.budget -= last - first
        pieces, at = [], first
        for call in self.calls[name]:
            if not first <= call.start() < last or len(including) >= DEPTH:
                continue
            self.budget -= CALL
            if self.budget <= 0:
                break
            inner, folder = self.resolve(call, base, name)
            if inner and inner not in (*including, name):
                piece = self.expand(inner, folder, (*including, name))
                pieces += (text[at : call.start()], piece)
                at = call.end()
        return "".join((*pieces, text[at:last]))
