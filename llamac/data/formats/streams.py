"""The bytes and lines of files, compressed or not, in bounded memory.

What comes before a break in a file is kept; the break is counted in `Skipped`. A file that
expands far beyond what text does is taken for a bomb, and left where that shows.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from llamac.runtime.data.sources import Skipped, SourceError, Stream, zstd_blocks

CHUNK_BYTES = 1 << 20
LINE_BYTES = 1 << 26  # a longer line is skipped; one line is in memory several times
WINDOW_BYTES = 1 << 27  # the most that a decompressor may remember: zstd -22 and xz -9 ask less
EXPANSION = 200  # times the compressed size; text expands 3 to 20 times
FREE_BYTES = 1 << 26  # small files may expand as they like

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


class _Broken(Exception):
    """args[0]: the reason to count."""


def stem(path: str) -> str:
    """The name without its compression's suffix, in lower case."""
    lower = path.lower()
    return next((lower[: -len(end)] for end in SUFFIXES if lower.endswith(end)), lower)


def chunks(path: str, skipped: Skipped) -> Iterator[bytes]:
    """The decompressed bytes of a file, none longer than a few `CHUNK_BYTES`. (In a garbled gzip
    file the break may be noticed only at its checksum, at the end.)

    SourceError: a `.zst` file, and zstandard is not installed.
    """
    try:
        with open(path, "rb") as raw:
            start = raw.read(6)
            raw.seek(0)
            if not start:
                skipped.add("empty file", path)
                return
            for magic, name, suffix, inflate in _CODECS:
                if start.startswith(magic):
                    try:
                        yield from _within_reason(raw, inflate(raw))
                    except _BREAKS as error:
                        raise _Broken(f"broken {name}") from error
                    return
                if path.lower().endswith(suffix):
                    raise _Broken(f"broken {name}")
            while block := raw.read(CHUNK_BYTES):
                yield block
    except _Broken as error:
        skipped.add(str(error), path)
    except OSError as error:
        skipped.add(f"unreadable file ({error.strerror})", path)


def stream(path: str, skipped: Skipped) -> io.BufferedReader:
    """`chunks` as a file that can be read, not sought."""
    return io.BufferedReader(Stream(chunks(path, skipped)), CHUNK_BYTES)


def lines(path: str, skipped: Skipped) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line with its end), but for those over `LINE_BYTES`."""
    with stream(path, skipped) as file:
        number = 0
        while line := file.readline(LINE_BYTES):
            number += 1
            if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(CHUNK_BYTES)
                skipped.add("line too long", f"{path}:{number}")
            else:
                yield number, line


# --- Decompression ---------------------------------------------------------------------------


def _within_reason(raw: IO[bytes], pieces: Iterator[bytes]) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > FREE_BYTES and size > EXPANSION * raw.tell():
            raise _Broken("expands too far")
        yield piece


def _gzip(raw: IO[bytes]) -> Iterator[bytes]:
    with gzip.open(raw) as file:
        while block := file.read1(CHUNK_BYTES):  # `read` would lose what comes before a break
            yield block


def _bz2(raw: IO[bytes]) -> Iterator[bytes]:
    with bz2.open(raw) as file:
        while block := file.read1(CHUNK_BYTES):
            yield block


def _xz(raw: IO[bytes]) -> Iterator[bytes]:
    """Not `lzma.open`: it allocates whatever window a file's header asks for."""
    machine = lzma.LZMADecompressor(memlimit=WINDOW_BYTES)
    while True:
        block = b""
        if machine.eof:
            rest = (machine.unused_data or raw.read(CHUNK_BYTES)).lstrip(b"\0")
            block = rest or raw.read(CHUNK_BYTES).lstrip(b"\0")
            if not block:
                return
            machine = lzma.LZMADecompressor(memlimit=WINDOW_BYTES)
        elif machine.needs_input and not (block := raw.read(CHUNK_BYTES)):
            raise EOFError
        yield machine.decompress(block, CHUNK_BYTES)


def _zstd(raw: IO[bytes]) -> Iterator[bytes]:
    zstandard = package("zstandard", raw.name)
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
    try:
        yield from zstd_blocks(decompressor, raw, 1 << 10)  # 4 bytes of a block may be 128 KB
    except zstandard.ZstdError as error:
        raise EOFError from error


_BREAKS = (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
_CODECS: tuple[tuple[bytes, str, str, Callable[[IO[bytes]], Iterator[bytes]]], ...] = (
    (b"\x1f\x8b", "gzip", ".gz", _gzip),
    (b"BZh", "bzip2", ".bz2", _bz2),
    (b"\xfd7zXZ\0", "xz", ".xz", _xz),
    (b"\x28\xb5\x2f\xfd", "zstd", ".zst", _zstd),
)


def package(name: str, path: str) -> Any:
    """An optional dependency. SourceError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        hint = "pip install 'llamac[data]'"
        raise SourceError(f"{path}: reading it needs {root}: {hint}") from error
