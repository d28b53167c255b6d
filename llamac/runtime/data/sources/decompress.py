"""Read bytes and lines of files, compressed or not, in bounded memory.

The compression is detected from a file's first bytes, not from its name. If a file is damaged, the
data before the damage is read, and the damage is counted in `Skipped`. A file that expands far more
than text does is treated as a decompression bomb, and reading stops.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import importlib
import io
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from ...errors import SourceError
from .skipped_records import Skipped

CHUNK_BYTES = 1 << 20  # read at a time
LINE_BYTES = 1 << 26  # longest line read; several copies of a line are in memory at once
# Largest window of a decompressor: zstd --long=31, the format's own limit. Its memory is touched
# only as far as the text fills it, so a header alone costs nothing.
WINDOW_BYTES = 1 << 31
DICTIONARY_BYTES = 1 << 26  # of a .warc.zst
EXPANSION = 200  # largest ratio to the compressed size; text expands 3 to 20 times
FREE_BYTES = 1 << 26  # smaller outputs are never taken for bombs

SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")  # of compressed files


class _Broken(Exception):
    """A file is damaged. args: the reason to count, and optionally a detail for its example."""


def stem(path: str) -> str:
    """Return a path in lower case, without a suffix of `SUFFIXES`: `Wiki.TXT.gz` → `wiki.txt`."""
    lower = path.lower()
    return next((lower[: -len(end)] for end in SUFFIXES if lower.endswith(end)), lower)


def read_decompressed(path: str, skipped: Skipped) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file, in pieces of at most a few `CHUNK_BYTES`.

    Damaged, empty and unreadable files and bombs (see `is_bomb`) are counted in `skipped`, and end
    early; damage within a gzip file may be noticed only by the checksum at its end. Raises
    SourceError if the package for its compression is not installed.
    """
    try:
        with open(path, "rb") as raw:
            start = raw.read(16)
            raw.seek(0)
            if not start:
                skipped.add("empty file", path)
                return
            codec = next((codec for codec in _CODECS if start.startswith(codec.magic)), None)
            if codec is not None:
                yield from _inflated(raw, codec)
                return
            for name, *_, suffixes in _CODECS:
                if path.lower().endswith(suffixes):
                    raise _Broken(f"broken {name}")
            while block := raw.read(CHUNK_BYTES):
                yield block
    except _Broken as error:
        reason, *detail = error.args
        skipped.add(reason, f"{path} ({detail[0]})" if detail else path)
    except OSError as error:
        skipped.add(f"unreadable file ({error.strerror})", path)


def stream(path: str, skipped: Skipped) -> io.BufferedReader:
    """Open a file as a buffered stream of its decompressed bytes, without `seek`.

    Errors are those of `read_decompressed`.
    """
    return as_file(read_decompressed(path, skipped))


def utf8_chunks(path: str, skipped: Skipped) -> Iterator[bytes]:
    """Yield the bytes of a text file, decompressed, as UTF-8 without a byte order mark.

    UTF-16 and UTF-32 are recognised by their byte order marks. Unpaired surrogates in them become
    invalid UTF-8, which only affects their own document. Errors are those of `read_decompressed`;
    invalid UTF-16 or UTF-32 ends the text and is counted in `skipped`.
    """
    pieces, head = read_decompressed(path, skipped), b""
    while len(head) < 4 and (piece := next(pieces, b"")):
        head += piece
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            pieces = itertools.chain([head[len(mark) :]], pieces)
            yield from _recoded(pieces, encoding, path, skipped) if encoding else pieces
            return
    if head:
        yield head
    yield from pieces


def lines(pieces: Iterator[bytes], path: str, skipped: Skipped) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line with its line end) of the text that `pieces` make up.

    pieces: consecutive bytes of the file. path: its name, for `skipped`, in which lines longer than
    `LINE_BYTES` are counted.
    """
    with as_file(pieces) as file:
        number = 0
        while line := file.readline(LINE_BYTES):
            number += 1
            if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(CHUNK_BYTES)
                skipped.add("line too long", f"{path}:{number}")
            else:
                yield number, line


def as_file(pieces: Iterator[bytes]) -> io.BufferedReader:
    """Return consecutive pieces of bytes as a buffered binary file without `seek`."""
    return io.BufferedReader(_Pieces(pieces), CHUNK_BYTES)


class _Pieces(io.RawIOBase):
    """Readable file over an iterator of bytes, so that `io` can split it into lines."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:  # an empty piece does not mean the end
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _recoded(
    pieces: Iterator[bytes], encoding: str, path: str, skipped: Skipped
) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode("utf-8", "surrogatepass")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        skipped.add(f"invalid {encoding.upper()[:6]}", path)


_MARKS = (
    (b"\xef\xbb\xbf", None),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)


# --- Decompression ---------------------------------------------------------------------------


class _Codec(NamedTuple):
    name: str
    magic: tuple[bytes, ...]
    inflate: Callable[[IO[bytes]], Iterator[bytes]]
    suffixes: tuple[str, ...]


def _inflated(raw: IO[bytes], codec: _Codec) -> Iterator[bytes]:
    """Yield the decompressed bytes until they prove to be a bomb.

    Small pieces are joined, because each piece has a cost for its reader.
    """
    size, buffered, pieces, broken = 0, 0, list[bytes](), None
    try:
        for piece in codec.inflate(raw):
            pieces.append(piece)
            buffered += len(piece)
            if buffered >= CHUNK_BYTES // 8:
                size += buffered
                if is_bomb(size, raw.tell()):
                    raise _Broken("expands too far")
                yield b"".join(pieces)
                buffered, pieces = 0, []
    except _BREAKS as error:
        broken = _Broken(f"broken {codec.name}")
        broken.__cause__ = error
    yield b"".join(pieces)
    if broken:
        raise broken


def is_bomb(size: int, compressed: int) -> bool:
    """Return whether `compressed` bytes that expand to `size` bytes are a decompression bomb.

    They are if `size` exceeds both `FREE_BYTES` and `EXPANSION` times `compressed`.
    """
    return size > FREE_BYTES and size > EXPANSION * compressed


def _gzip(raw: IO[bytes]) -> Iterator[bytes]:
    with gzip.open(raw) as file:
        while block := file.read1(CHUNK_BYTES):  # `read` would lose the data before a break
            yield block


def _bz2(raw: IO[bytes]) -> Iterator[bytes]:
    with bz2.open(raw) as file:
        while block := file.read1(CHUNK_BYTES):
            yield block


def _xz(raw: IO[bytes]) -> Iterator[bytes]:
    """Decompress with a memory limit; `lzma.open` allocates any window that a header asks for."""
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
        try:
            yield machine.decompress(block, CHUNK_BYTES)
        except lzma.LZMAError as error:
            if "limit" in str(error):
                raise _Broken("window too large", f"more than {WINDOW_BYTES >> 20} MB") from error
            raise


def _zstd(raw: IO[bytes]) -> Iterator[bytes]:
    """Decompress frame by frame: the library's stream reader accepts truncated files as complete.

    Skippable frames, which may come first, have no content.
    """
    zstandard = package("zstandard", raw.name)
    try:
        dictionary = _dictionary(raw, zstandard)
        decompressor = zstandard.ZstdDecompressor(dictionary, max_window_size=WINDOW_BYTES)
        frame, fresh = decompressor.decompressobj(write_size=1 << 16), True
        for block in iter(lambda: raw.read(1 << 12), b""):  # 4 bytes of it may be 128 KB
            while block:
                if fresh:
                    _check_window(block, zstandard)
                yield frame.decompress(block)
                block, fresh = (frame.unused_data, True) if frame.eof else (b"", False)
                if fresh:
                    frame = decompressor.decompressobj(write_size=1 << 16)
    except zstandard.ZstdError as error:
        raise EOFError from error
    if not fresh:
        raise EOFError


def _check_window(start: bytes, zstandard: Any) -> None:
    try:
        window = zstandard.get_frame_parameters(start).window_size
    except zstandard.ZstdError:  # a skippable frame, or a header that goes on in the next block
        return
    if window > WINDOW_BYTES:
        raise _Broken("window too large", f"{window >> 20} MB, at most {WINDOW_BYTES >> 20}")


def _dictionary(raw: IO[bytes], zstandard: Any) -> Any:
    """Return the dictionary of a .warc.zst; None for other files.

    Such a file begins with it in a skippable frame, compressed or not (IIPC, "Use of Zstandard in
    WARC files").
    """
    if raw.read(4) != b"\x5d\x2a\x4d\x18":
        raw.seek(0)
        return None
    size = int.from_bytes(raw.read(4), "little")
    data = raw.read(min(size, DICTIONARY_BYTES))
    raw.seek(0)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        machine = zstandard.ZstdDecompressor(max_window_size=DICTIONARY_BYTES)
        data = machine.stream_reader(data).read(DICTIONARY_BYTES)
    return zstandard.ZstdCompressionDict(data) if data.startswith(b"\x37\xa4\x30\xec") else None


_BREAKS = (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")  # the first one, or the end of an empty file
_BZIP2 = tuple(b"BZh%d%s" % (level, next) for level in range(1, 10) for next in _BZIP2_BLOCKS)
_ZSTD = (
    b"\x28\xb5\x2f\xfd",
    *(b"%c\x2a\x4d\x18" % kind for kind in range(0x50, 0x60)),
)  # or to skip
_CODECS = (
    _Codec("gzip", (b"\x1f\x8b",), _gzip, (".gz",)),
    _Codec("bzip2", _BZIP2, _bz2, (".bz2",)),
    _Codec("xz", (b"\xfd7zXZ\0",), _xz, (".xz",)),
    _Codec("zstd", _ZSTD, _zstd, (".zst", ".zstd")),
)


def package(name: str, path: str) -> Any:
    """Import an optional dependency, by the name of its module.

    path: file that needs it, for the message. Raises SourceError if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        hint = f"pip install {root}, or 'llamac[data]' for all that readers need"
        raise SourceError(f"{path}: reading it needs {root}: {hint}") from error
