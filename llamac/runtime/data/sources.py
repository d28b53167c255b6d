"""Where training text comes from: readers that yield documents in a deterministic order.

A source is a plain dict, the spec's `[[data.source]]`: `kind`, `paths` (globs, not for the
Python kinds), `text_field` and `max_bytes`. A reader never stops at a bad file or a bad line: it
counts it in a `Skipped`, which `prepare` writes into the manifest.

Dumps that have to be cleaned first are not read here: `llamac data prepare` does that.
"""

from __future__ import annotations

import ast
import gzip
import importlib
import io
import json
import os
import sysconfig
import tokenize
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from .input_files import SourceError, file_list

PART_BYTES = 1 << 18  # a longer text file is cut into documents of about this size
LINE_BYTES = 1 << 26  # a longer JSON line is skipped: one line must fit in memory several times
CHUNK_BYTES = 1 << 20
EXAMPLES = 20

NOT_TEXT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
GENERATED = {"encodings", "pydoc_data"}  # tables, and the very text of `python-docs`
PLAIN, JSON_LINES, PARQUET = (".txt", ".md"), (".jsonl",), (".parquet",)
COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class Skipped:
    """What a reader left out: how often, by reason, and where the first few were."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, reason: str, where: str) -> None:
        self.counts[reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{where}: {reason}")


def documents(source: dict[str, Any], skipped: Skipped | None = None) -> Iterator[str]:
    """Yields the documents of `source`, each a non-blank, valid Unicode string.

    Reading stops after the document with which `max_bytes` of UTF-8 is reached.
    Raises SourceError when the source as a whole cannot be read.
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
        seen += len(text.encode())


# --- The standard library ------------------------------------------------------------------


def _modules() -> list[tuple[str, Path]]:
    """(dotted name, file) of the standard library's modules in Python, tests left out."""
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
            f"no Python source under {root}: this Python comes without its standard library's "
            "files; use a source of kind 'files'"
        )
    return sorted(modules)


def _python_source(skipped: Skipped) -> Iterator[str]:
    """The code of each module of the standard library."""
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
    """pydoc's topics, then one document per module: its docstrings in the order of the source.

    Parsing takes seconds, the result is about 2 MB: cached, since preparing reads it twice.
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # Debian leaves it out of its smaller packages
        topics = {}
    texts = [topics[name].strip("\n") + "\n" for name in sorted(topics)]
    for name, path in _modules():
        try:
            with tokenize.open(path) as file:
                tree = ast.parse(file.read())
        except (OSError, SyntaxError, ValueError):
            continue  # `python-source` reports it; here it merely has no docstrings to give
        entries = list(_docstrings(tree, name))
        if entries:
            texts.append("\n\n\n".join(entries) + "\n")
    if not texts:
        raise SourceError(
            "this Python carries no documentation (no pydoc topics, no docstrings in its standard "
            "library); use a source of kind 'files'"
        )
    return tuple(texts)


def _docstrings(node: ast.AST, name: str) -> Iterator[str]:
    """`signature`, a blank line, the docstring: for the node, then for what it defines."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, kinds) and (text := ast.get_docstring(node)):
        yield f"{_heading(node, name)}\n\n{text}"
    for child in ast.iter_child_nodes(node):
        if isinstance(child, kinds):
            yield from _docstrings(child, f"{name}.{child.name}")  # type: ignore[union-attr]
        elif isinstance(child, (ast.If, ast.Try)):  # definitions often hide behind a condition
            yield from _docstrings(child, name)


def _heading(node: ast.AST, name: str) -> str:
    if isinstance(node, ast.Module):
        return f"module {name}"
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    return f"{name}({ast.unparse(node.args)})"


# --- Files ---------------------------------------------------------------------------------


def _files(source: dict[str, Any], skipped: Skipped) -> Iterator[str]:
    for path in file_list(source):
        stem, compression = os.path.splitext(path)
        kind = os.path.splitext(stem)[1] if compression in COMPRESSED else compression
        if kind in PLAIN:
            yield from _parts(path, skipped)
        elif kind in JSON_LINES:
            yield from _json_lines(path, source.get("text_field", "text"), skipped)
        elif kind in PARQUET and compression in PARQUET:
            yield from _parquet(path, source.get("text_field", "text"), skipped)
        else:
            raise SourceError(
                f"{path}: cannot read this kind of file; these can be: .txt, .md and .jsonl "
                "(each also with .gz or .zst), .parquet"
            )


def _parts(path: str, skipped: Skipped) -> Iterator[str]:
    """A text file as one document, or, when it is long, as several cut at a blank line or a line
    end. Cutting keeps memory bounded and lets a one-file corpus have held-out documents."""
    pending, line, first = b"", 1, True
    for chunk in _chunks(path, skipped):
        pending = pending + chunk
        while len(pending) >= 2 * PART_BYTES:
            end = cut(pending)
            yield from _decoded(pending[:end], f"{path}:{line}", first, skipped)
            line, first = line + pending.count(b"\n", 0, end), False
            pending = pending[end:]
    yield from _decoded(pending, f"{path}:{line}", first, skipped)


def cut(data: bytes, start: int = 0) -> int:
    """Where the part from `start` ends: a blank line, a line end, or a character's start."""
    low, high = start + PART_BYTES // 2, start + PART_BYTES
    for separator in (b"\n\n", b"\n"):
        found = data.rfind(separator, low, high)
        if found >= 0:
            return found + len(separator)
    end = high
    while end > high - 4 and data[end] & 0xC0 == 0x80:  # inside a UTF-8 character
        end -= 1
    return end


def _decoded(data: bytes, where: str, first: bool, skipped: Skipped) -> Iterator[str]:
    try:
        text = data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        line = int(where.rpartition(":")[2]) + data.count(b"\n", 0, error.start)
        skipped.add("invalid UTF-8", f"{where.rpartition(':')[0]}:{line}")
        return
    if text.strip():
        yield text
    else:
        skipped.add("empty", where)


def _json_lines(path: str, text_field: str, skipped: Skipped) -> Iterator[str]:
    """The `text_field` of each line of a JSON lines file; blank lines are no documents."""
    with io.BufferedReader(Stream(_chunks(path, skipped)), CHUNK_BYTES) as lines:
        number = 0
        while line := lines.readline(LINE_BYTES):
            number += 1
            where = f"{path}:{number}"
            if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = lines.readline(LINE_BYTES)
                skipped.add("line too long", where)
            elif line.strip():
                text = _json_text(line, text_field, where, skipped)
                if text is not None:
                    yield text


def _json_text(line: bytes, text_field: str, where: str, skipped: Skipped) -> str | None:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return skipped.add("invalid UTF-8", where)
    except (ValueError, RecursionError):
        return skipped.add("invalid JSON", where)
    text = record.get(text_field) if isinstance(record, dict) else None
    return _record_text(text, text_field, where, skipped)


def _record_text(text: Any, text_field: str, where: str, skipped: Skipped) -> str | None:
    if not isinstance(text, str):
        return skipped.add(f"no text in {text_field!r}", where)
    if not text.strip():
        return skipped.add("empty", where)
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, UTF-8 cannot
        return skipped.add("invalid Unicode", where)
    return text


def _parquet(path: str, text_field: str, skipped: Skipped) -> Iterator[str]:
    """The `text_field` column of a parquet file, row group by row group."""
    arrow = _package("pyarrow", path)
    parquet = importlib.import_module("pyarrow.parquet")
    row = 0
    try:
        with parquet.ParquetFile(path) as table:
            if text_field not in table.schema_arrow.names:
                skipped.add(f"no column {text_field!r}", path)
                return
            for batch in table.iter_batches(batch_size=1024, columns=[text_field]):
                for value in batch.column(0):
                    row += 1
                    where = f"{path}:{row}"
                    text = _record_text(value.as_py(), text_field, where, skipped)
                    if text is not None:
                        yield text
    except (OSError, ValueError, arrow.ArrowException):
        skipped.add("broken parquet", f"{path}:{row + 1}")


# --- Bytes ---------------------------------------------------------------------------------


def _chunks(path: str, skipped: Skipped) -> Iterator[bytes]:
    """The decompressed bytes of a file; what comes before a break in it is kept. (In a garbled
    gzip file the break may be noticed only at its checksum, at the end.)"""
    try:
        with open(path, "rb") as raw:
            if path.endswith(".gz"):
                with gzip.open(raw) as unzipped:
                    yield from _blocks(unzipped)
            elif path.endswith(".zst"):
                yield from _unzstd(path, raw)
            else:
                yield from _blocks(raw)
    except (gzip.BadGzipFile, zlib.error, EOFError):
        skipped.add("broken gzip", path)
    except _BrokenZstd:
        skipped.add("broken zstd", path)
    except OSError as error:
        skipped.add(f"unreadable file ({error.strerror})", path)


def _blocks(file: io.BufferedReader | gzip.GzipFile) -> Iterator[bytes]:
    while block := file.read1(CHUNK_BYTES):  # `read` would lose what comes before a break
        yield block


class _BrokenZstd(Exception):
    pass


def _unzstd(path: str, raw: IO[bytes]) -> Iterator[bytes]:
    zstandard = _package("zstandard", path)
    try:
        yield from zstd_blocks(zstandard.ZstdDecompressor(), raw, 1 << 14)
    except (zstandard.ZstdError, EOFError) as error:
        raise _BrokenZstd from error


def zstd_blocks(decompressor: Any, raw: IO[bytes], size: int) -> Iterator[bytes]:
    """Frame by frame with `decompressobj`: the stream reader takes a truncated file for whole.

    size: bytes read at a time, each decompressed whole, in memory. EOFError at a truncated end.
    """
    frame, fresh = decompressor.decompressobj(), True
    for block in iter(lambda: raw.read(size), b""):
        while block:
            yield frame.decompress(block)
            block, fresh = (frame.unused_data, True) if frame.eof else (b"", False)
            if fresh:
                frame = decompressor.decompressobj()
    if not fresh:
        raise EOFError


def _package(name: str, path: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SourceError(f"{path}: reading it needs {name}: pip install {name}") from error


class Stream(io.RawIOBase):
    """An iterator of chunks as a readable file, so that `io` can find the lines in it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:  # a chunk may be empty without being the last
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
