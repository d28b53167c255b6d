"""Read the documents of sources that need no cleaning, in a deterministic order.

A source is a dict, the spec's `[[data.source]]` table: `kind`, `paths` (globs; not for the Python
kinds), `text_field` and `max_bytes`. Readers do not stop at a bad file or line, but count it in a
`Skipped`, which `prepare` writes to the manifest. `llamac data prepare` reads dumps that must be
cleaned first.
"""

from __future__ import annotations

import ast
import importlib
import os
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import SourceError
from .input_files import file_list
from .records import read_file
from .skipped_records import Skipped

# Directories and packages of the standard library that are left out.
NOT_TEXT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
GENERATED = {"encodings", "pydoc_data"}  # tables, and the text that `python-docs` already has


def documents(source: dict[str, Any], skipped: Skipped | None = None) -> Iterator[str]:
    """Yield the documents of a source, each a non-blank string of valid Unicode.

    source: `[[data.source]]` table. Stops after the document that reaches its `max_bytes` of UTF-8.
    Skipped files and records are counted in `skipped`. Raises SourceError if no reader supports the
    kind, if no file matches, or if a package is not installed.
    """
    skipped = Skipped() if skipped is None else skipped
    readers: dict[str, Callable[[], Iterator[str]]] = {
        "python-docs": lambda: iter(_python_docs()),
        "python-source": lambda: _python_source(skipped),
        "files": lambda: _files(source, skipped),
    }
    if source["kind"] not in readers:
        raise SourceError(f"unknown source kind {source['kind']!r}: use {', '.join(readers)}")
    limit, seen = source.get("max_bytes"), 0
    for text in readers[source["kind"]]():
        if limit is not None and seen >= limit:
            return
        yield text
        seen += len(text.encode()) if limit is not None else 0


def _files(source: dict[str, Any], skipped: Skipped) -> Iterator[str]:
    for path in file_list(source):
        text_field = source.get("text_field", "text")
        for record in read_file(path, text_field, skipped, with_meta=False):
            yield record.text


# --- The standard library ------------------------------------------------------------------


def _modules() -> list[tuple[str, Path]]:
    """Return (dotted name, file) of the standard library's Python modules, without tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    modules = []
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in NOT_TEXT]
        for path in (Path(folder, name) for name in files if name.endswith(".py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[0] not in GENERATED:
                modules.append((".".join(parts).removesuffix(".__init__"), path))
    if not modules:
        raise SourceError(
            f"no Python source under {root}: this Python was installed without the source of its "
            "standard library; use a source of kind 'files'"
        )
    return sorted(modules)


def _python_source(skipped: Skipped) -> Iterator[str]:
    """Yield the code of each module of the standard library."""
    for name, path in _modules():
        try:
            with tokenize.open(path) as file:  # honours the file's own encoding line
                text = file.read()
        except (OSError, SyntaxError, UnicodeError):
            skipped.add("unreadable module", name)
            continue
        if text.strip():
            yield text
        else:
            skipped.add("empty", name)


@cache
def _python_docs() -> tuple[str, ...]:
    """Return pydoc's topics, then one document per module: its docstrings in source order.

    Cached, since preparation reads it twice: parsing takes seconds and the result is about 2 MB.
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # missing in Debian's smaller packages
        topics = {}
    texts = [topics[name].strip("\n") + "\n" for name in sorted(topics)]
    for name, path in _modules():
        try:
            with tokenize.open(path) as file:
                tree = ast.parse(file.read())
        except (OSError, SyntaxError, ValueError):
            continue  # `python-source` reports such files; here they only lack docstrings
        entries = list(_docstrings(tree, name))
        if entries:
            texts.append("\n\n\n".join(entries) + "\n")
    if not texts:
        raise SourceError(
            "this Python has no documentation (no pydoc topics, no docstrings in its standard "
            "library); use a source of kind 'files'"
        )
    return tuple(texts)


def _docstrings(node: ast.AST, name: str) -> Iterator[str]:
    """Yield signature, blank line and docstring of the node, then of its definitions."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, kinds) and (text := ast.get_docstring(node)):
        yield f"{_heading(node, name)}\n\n{text}"
    for child in ast.iter_child_nodes(node):
        if isinstance(child, kinds):
            yield from _docstrings(child, f"{name}.{child.name}")  # type: ignore[union-attr]
        elif isinstance(child, (ast.If, ast.Try)):  # definitions may be inside a condition
            yield from _docstrings(child, name)


def _heading(node: ast.AST, name: str) -> str:
    if isinstance(node, ast.Module):
        return f"module {name}"
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    return f"{name}({ast.unparse(node.args)})"
