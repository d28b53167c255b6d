"""Documents on disk between two steps: chunks of JSON lines, compressed, each written whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from llamac.data.document import Document
from llamac.runtime.data.decompress import package
from llamac.runtime.errors import RunError

SUFFIX = ".jsonl.zst"
LEVEL = 1  # a chunk is written once and read a few times


class Chunk:
    """One that is being written: beside its place, and moved there when it is closed."""

    def __init__(self, path: Path) -> None:
        self.path, self.bytes, self.documents = path, 0, 0
        self._file: IO[bytes] | None = None
        self._stream: Any = None

    def add(self, document: Document) -> None:
        if self._file is None:
            self._file = _aside(self.path).open("wb")
            compressor = package("zstandard", str(self.path)).ZstdCompressor(level=LEVEL)
            self._stream = compressor.stream_writer(self._file, closefd=False)
        record = {"text": document.text, "file": document.file, "line": document.line}
        if document.meta:
            record["meta"] = document.meta
        if document.tokens is not None:
            record["tokens"] = document.tokens
        try:
            data = json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # a file's name, not the text; escapes bring it back
            data = json.dumps(record).encode()
        self._stream.write(data + b"\n")
        self.bytes += len(data)
        self.documents += 1

    def close(self) -> None:
        """Nothing is left of a chunk without documents."""
        if self._file is not None:
            self._stream.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(_aside(self.path), self.path)


def path_of(folder: Path, number: int) -> Path:
    return folder / f"{number:05}{SUFFIX}"


def paths_in(folder: Path) -> list[Path]:
    """The chunks of a part, in order."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def read(path: Path) -> Iterator[Document]:
    """Raises RunError at a chunk that is damaged or is not there."""
    zstandard = package("zstandard", str(path))
    try:
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            for line in _lines(stream):
                yield Document(**json.loads(line))
    except (OSError, ValueError, TypeError, zstandard.ZstdError) as error:
        raise RunError(
            f"{path} cannot be read ({error}): delete {path.parents[2]} and prepare again"
        ) from error


def read_all(paths: Sequence[Path]) -> Iterator[Document]:
    for path in paths:
        yield from read(path)


def _lines(stream: Any) -> Iterator[bytes]:
    pieces: list[bytes] = []
    while block := stream.read(1 << 20):
        head, *rest = block.split(b"\n")
        pieces.append(head)
        for line in rest:
            yield b"".join(pieces)
            pieces = [line]


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")
