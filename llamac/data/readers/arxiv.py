"""arXiv: LaTeX papers → their source from the first section on (LLaMA, section 2.1).

A file, a tar of a paper's files, either gzipped, as arXiv serves them; arXiv's bulk archives of
those; Sweave files, without their R code. Comments and bibliography go, the author's own macros
are written out. meta: title; path of the main file.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator

from llamac.data.document import Document
from llamac.data.formats.tex import Verbatim, expanded, without_chunks, without_comments
from llamac.data.formats.trees import ENTRY_BYTES, Entry, entries, is_tar
from llamac.runtime.data.records import accepted
from llamac.runtime.data.skipped import Skipped
from llamac.spec.data import Source

SOURCES = (".tex", ".ltx", ".latex", ".rnw", ".rtex", ".snw")
SWEAVE = (".rnw", ".rtex", ".snw")
PAPER_CHARS = 1 << 23  # with all that is \input
DEPTH = 8  # of \input within \input

_CLASS = re.compile(r"\\document(?:class|style)\b")
_BEGIN = re.compile(r"\\begin\s*\{document\}")
_END = re.compile(r"\\end\s*\{document\}")
_INPUT = re.compile(
    r"\\(?:input|include|subfile)(?:\s*\{\s*([^{}\\#\n]{1,200}?)\s*\}|[ \t]+([\w./-]{1,200}))"
)
_SECTION = re.compile(
    r"\\(?:part|chapter|(?:sub){0,2}section|(?:sub)?paragraph)\*?\s*(?:\[[^\]]{0,500}\]\s*)?\{"
)
_BIBLIOGRAPHY = re.compile(
    r"(?:\\(?:chapter|section)\*?\s*\{\s*(?:references|bibliography)\s*\}\s*)?"
    r"\\begin\s*\{thebibliography\}",
    re.I,
)
_BIBLIOGRAPHY_END = re.compile(r"\\end\s*\{thebibliography\}")
_CITATION_COMMANDS = re.compile(
    r"\\(?:bibliography|bibliographystyle|nocite|addbibresource)\s*(?:\[[^\]\n]{0,200}\])?"
    r"\s*\{[^{}]{0,2000}\}|\\printbibliography\b(?:\[[^\]]{0,500}\])?"
)
_TITLE = re.compile(
    r"\\(?:plain)?title\s*(?:\[[^\]]{0,300}\])?\s*\{((?:[^{}]|\{[^{}]{0,200}\}){1,500})\}"
)
_ENCODING = re.compile(
    rb"\\usepackage\s*\[\s*(latin1|latin2|latin9|cp1252|ansinew|utf8)\s*\]\s*\{inputenc\}"
)
_PYTHON = {"latin9": "iso8859-15", "ansinew": "cp1252", "utf8": "utf-8"}


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """One document for a paper: for a file, an archive, or the files of a directory."""
    for paper, file, line in _papers(path, skipped):
        where = f"{file}:{line}"
        texts = _texts(paper, where, skipped)
        if not texts:
            continue
        verbatim = Verbatim()
        texts = {name: without_comments(text, verbatim) for name, text in texts.items()}
        main, whole = _joined(texts)
        if len(whole) > PAPER_CHARS:
            skipped.add("paper too long", where)
            continue
        title = _TITLE.search(whole)
        text = verbatim.restored(body(expanded(whole)))
        text = "\n".join(line.rstrip() for line in text.split("\n"))
        text = re.sub(r"\n{3,}", "\n\n", text).strip("\n")
        if accepted(text, where, skipped):
            meta = {"path": main}
            if title:
                meta["title"] = " ".join(title[1].replace("\\\\", " ").split())
            yield Document(f"{text}\n", file, line, meta)


def body(text: str) -> str:
    """From the first section to the end of the document, without its bibliography. A text that
    has no sections is kept from its \\begin{document}, or whole."""
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
    return name.lower().endswith(SOURCES)


def _is_paper(name: str) -> bool:
    """Of a month's archive, which has a file for each."""
    return _is_source(name) or name.endswith(".gz")


def _papers(path: str, skipped: Skipped) -> Iterator[tuple[list[Entry], str, int]]:
    """(files of a paper, where it lies: file, number)."""
    if os.path.isdir(path):
        if paper := list(entries(path, skipped, _is_source)):
            yield paper, path, 1
        else:
            skipped.add("no TeX in directory", path)
        return
    if not is_tar(path):
        for entry in entries(path, skipped):
            yield _unpacked(entry, skipped), path, 1
        return
    alone: list[Entry] = []
    found, before = False, skipped.counts.total()
    for entry in entries(path, skipped, _is_paper):
        found = True
        if entry.name.endswith(".gz"):
            yield _unpacked(entry, skipped), path, entry.line
        else:
            alone.append(entry)
    if alone:
        yield alone, path, alone[0].line
    elif not found and skipped.counts.total() == before:
        skipped.add("no TeX in archive", path)


def _unpacked(entry: Entry, skipped: Skipped) -> list[Entry]:
    """What is in a file of an archive: gzip is undone, a tar's members are given one by one."""
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
    if data[257:262] != b"ustar":
        return [Entry(entry.name, data, entry.file, entry.line)]
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if member.isreg() and not member.issparse() and _is_source(member.name):
                    content = archive.extractfile(member)
                    name = member.name.removeprefix("./")
                    found.append(
                        Entry(name, content.read() if content else b"", entry.file, entry.line)
                    )
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        skipped.add("broken tar", where)
    if not found:
        skipped.add("no TeX in archive", where)
    return found


def _texts(paper: list[Entry], where: str, skipped: Skipped) -> dict[str, str]:
    declared = next((found for entry in paper if (found := _ENCODING.search(entry.data))), None)
    encoding = declared[1].decode() if declared else None
    texts = {}
    for entry in paper:
        text = _decoded(entry.data, encoding)
        if text is None:
            skipped.add("invalid UTF-8", f"{where} {entry.name}")
        elif "\0" in text:
            skipped.add("NUL in text", f"{where} {entry.name}")
        else:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            sweave = entry.name.lower().endswith(SWEAVE)
            texts[entry.name] = without_chunks(text) if sweave else text
    return texts


def _decoded(data: bytes, declared: str | None) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode(_PYTHON.get(declared, declared), "replace") if declared else None


def _joined(texts: dict[str, str]) -> tuple[str, str]:
    """(name of the main file, its text with those it inputs). Without a main file, all files that
    no other inputs, in the order of their names."""
    inputs = {
        _found(match[1] or match[2], name, texts)
        for name, text in texts.items()
        for match in _INPUT.finditer(text)
    }
    roots = [name for name in sorted(texts) if name not in inputs] or sorted(texts)
    mains = [name for name in sorted(texts) if _CLASS.search(texts[name])]
    mains = [name for name in mains if name in roots] or mains
    if mains:
        roots = [max(mains, key=lambda name: len(_whole(name, texts, PAPER_CHARS, ())))]
    pieces: list[str] = []
    for name in roots:
        left = PAPER_CHARS + 1 - sum(map(len, pieces))
        pieces.append(_whole(name, texts, left, ()))
    return roots[0], "\n\n".join(pieces)


def _found(target: str, by: str, texts: dict[str, str]) -> str:
    folder = posixpath.dirname(by)
    names = (target, f"{target}.tex")
    candidates = (*names, *(posixpath.normpath(posixpath.join(folder, name)) for name in names))
    return next((name for name in candidates if name in texts), "")


def _whole(name: str, texts: dict[str, str], left: int, within: tuple[str, ...]) -> str:
    """A file's text, what it inputs in its place, of at most about `left` characters."""
    text, pieces, at, size = texts[name], [], 0, len(texts[name])
    for match in _INPUT.finditer(text):
        inner = _found(match[1] or match[2], name, texts)
        if inner and inner not in (*within, name) and len(within) < DEPTH and size < left:
            piece = _whole(inner, texts, left - size, (*within, name))
            size += len(piece)
            pieces += (text[at : match.start()], piece)
            at = match.end()
    return "".join((*pieces, text[at:]))
