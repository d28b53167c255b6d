"""Read source trees, or tar archives of them: one document per file of code.

meta: path in the tree; language, from the file's name; licence, as an SPDX expression.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from functools import lru_cache

from llamac.data.document import Document
from llamac.data.formats.licences.licence_detection import (
    Licences,
    is_licence,
    is_manifest,
    licences,
)
from llamac.data.formats.licences.licence_texts import decode_licence
from llamac.data.formats.trees import Entry, contents, entries, is_tar
from llamac.runtime.data.sources.records import accept_text, decode_utf8
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source

# Endings of file names by programming or markup language.
LANGUAGES = {
    "Assembly": "asm s",
    "C": "c h",
    "C#": "cs",
    "C++": "cc cpp cxx hh hpp hxx inl",
    "CMake": "cmake",
    "CSS": "css scss less sass",
    "Clojure": "clj cljs cljc",
    "Common Lisp": "lisp lsp cl",
    "D": "d",
    "Dart": "dart",
    "Elixir": "ex exs",
    "Emacs Lisp": "el",
    "Erlang": "erl hrl",
    "F#": "fs fsi fsx",
    "Fortran": "f f77 f90 f95 f03 f08 for",
    "Go": "go",
    "Groovy": "groovy gradle",
    "HTML": "html htm xhtml",
    "Haskell": "hs lhs",
    "Java": "java",
    "JavaScript": "js mjs cjs jsx",
    "Julia": "jl",
    "Kotlin": "kt kts",
    "Lua": "lua",
    "Markdown": "md markdown rst",
    "Nim": "nim",
    "OCaml": "ml mli",
    "Objective-C": "m mm",
    "PHP": "php",
    "Pascal": "pas pp",
    "Perl": "pl pm t",
    "PowerShell": "ps1 psm1",
    "Protocol Buffers": "proto",
    "Prolog": "pro",
    "Python": "py pyi pyx pxd",
    "R": "r",
    "Ruby": "rb rake",
    "Rust": "rs",
    "SQL": "sql",
    "Scala": "scala sc",
    "Scheme": "scm ss rkt",
    "Shell": "sh bash zsh fish",
    "Swift": "swift",
    "TOML": "toml",
    "Tcl": "tcl",
    "TeX": "tex sty cls",
    "TypeScript": "ts tsx",
    "VHDL": "vhd vhdl",
    "Verilog": "v sv svh",
    "Vim script": "vim",
    "YAML": "yaml yml",
    "Zig": "zig",
}
_BY_ENDING = {ending: name for name, endings in LANGUAGES.items() for ending in endings.split()}
_BY_NAME = {"makefile": "Makefile", "dockerfile": "Dockerfile", "cmakelists.txt": "CMake"}
_NOT_SOURCES = frozenset((".git", ".hg", ".svn"))
BINARY_WITHIN = 8000  # bytes that git searches for a NUL to detect binary files


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield the source files of a directory or tar archive, or a single file.

    The licence of a single file is looked up in the folders above it.
    """
    declarations = _file_licences(os.path.dirname(os.path.abspath(path)))
    if is_tar(path) or os.path.isdir(path):
        declarations = _tree_licences(path)
    for entry in entries(path, skipped, _in_sources):
        yield from _document(entry, declarations, skipped)


def _in_sources(name: str) -> bool:
    return _NOT_SOURCES.isdisjoint(name.split("/"))


def _document(entry: Entry, declarations: Licences, skipped: Skipped) -> Iterator[Document]:
    where = f"{entry.file}:{entry.line}"
    if b"\0" in entry.data[:BINARY_WITHIN]:
        skipped.add("binary file", where)
        return
    language = language_of(entry.name)
    if language is None:
        skipped.add("not source code", where)
        return
    text = decode_utf8(entry.data, where, skipped)
    if text is not None and accept_text(text, where, skipped):
        meta = {"path": entry.name, "language": language}
        if licence := declarations.licence_of(entry.name, text):
            meta["licence"] = licence
        yield Document(text, entry.file, entry.line, meta)


def language_of(name: str) -> str | None:
    """Return the language of a file, by its name, such as "C++"; None if it is not code."""
    base = posixpath.basename(name).lower()
    _, dot, ending = base.rpartition(".")
    return _BY_NAME.get(base) or (_BY_ENDING.get(ending) if dot else None)


def _tree_licences(path: str) -> Licences:
    """Return the licences of a tree or archive.

    An archive is read a second time for this: a licence may follow the files it covers.
    """
    names: list[str] = []

    def is_declaration(name: str) -> bool:
        if language_of(name):
            names.append(name)
        return (is_licence(name) or is_manifest(name)) and _in_sources(name)

    texts = {
        entry.name: decode_licence(entry.data) for entry in entries(path, Skipped(), is_declaration)
    }
    return licences(texts, names)


@lru_cache(maxsize=256)
def _file_licences(folder: str) -> Licences:
    """Return the licences from the nearest folder above with licence files or debian/copyright."""
    parent = folder
    while True:
        names = [
            name
            for name in (*_listing(parent), "debian/copyright")
            if (is_licence(name) or is_manifest(name))
            and os.path.isfile(os.path.join(parent, name))
        ]
        if any(map(is_licence, names)) or os.path.dirname(parent) == parent:
            break
        parent = os.path.dirname(parent)
    texts = {}
    for name in names:
        data = contents(os.path.join(parent, name), Skipped())
        texts[name] = decode_licence(data or b"")
    return licences(texts)


def _listing(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
