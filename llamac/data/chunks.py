"""Store documents on disk between steps, in atomically written chunks of compressed JSON lines."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamac.data.document import Document
from llamac.runtime.data.sources.decompress import package
from llamac.runtime.durable_files import NewFile
from llamac.runtime.errors import RunError

SUFFIX = ".jsonl.zst"  # of a chunk's file name
LEVEL = 1  # zstd level: a chunk is written once and read a few times


@dataclass(frozen=True)
class SavedChunk:
    """Chunk of documents on disk, with the sha256 recorded when it was written."""

    path: Path
    sha256: str


class ChunkWriter:
    """Writer of one chunk: a temporary file that `close` renames to `path`.

    bytes, documents: uncompressed bytes of JSON and number of documents written so far.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.bytes, self.documents = path, 0, 0
        self._file: NewFile | None = None
        self._stream: Any = None

    def add(self, document: Document) -> None:
        """Append a document; the first one creates the temporary file."""
        if self._file is None:
            self._file = NewFile(self.path)
            compressor = package("zstandard", str(self.path)).ZstdCompressor(level=LEVEL)
            self._stream = compressor.stream_writer(self._file, closefd=False)
        record = {"text": document.text, "file": document.file, "line": document.line}
        if document.meta:
            record["meta"] = document.meta
        if document.tokens is not None:
            record["tokens"] = document.tokens
        try:
            data = json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # file names may be invalid UTF-8; surrogates keep them
            data = json.dumps(record).encode()
        self._stream.write(data + b"\n")
        self.bytes += len(data)
        self.documents += 1

    def close(self) -> list[str]:
        """Finish the file and return [sha256]; without documents, write no file and return []."""
        if self._file is None:
            return []
        self._stream.close()
        return [self._file.commit()]


def path_of(folder: Path, number: int) -> Path:
    """Return the path of chunk `number` in a folder."""
    return folder / f"{number:05}{SUFFIX}"


def paths_in(folder: Path) -> list[Path]:
    """Return the paths of a folder's chunks, in order."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def read(chunk: SavedChunk) -> Iterator[Document]:
    """Yield the documents of a chunk, after verifying its sha256.

    Raises RunError if the file is damaged or missing.
    """
    zstandard = package("zstandard", str(chunk.path))
    try:
        data = chunk.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != chunk.sha256:
            raise ValueError("sha256 mismatch")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{chunk.path} is damaged ({error}): delete {chunk.path.parents[2]} and prepare again"
        ) from error
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as stream:
        for line in _lines(stream):
            yield Document(**json.loads(line))


def read_all(chunks: Iterable[SavedChunk]) -> Iterator[Document]:
    """Yield the documents of all chunks, in order, verifying each chunk as `read` does."""
    for chunk in chunks:
        yield from read(chunk)


def _lines(stream: Any) -> Iterator[bytes]:
    pieces: list[bytes] = []
    while block := stream.read(1 << 20):
        head, *rest = block.split(b"\n")
        pieces.append(head)
        for line in rest:
            yield b"".join(pieces)
            pieces = [line]
