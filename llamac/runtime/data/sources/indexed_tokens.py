"""Read tokenised documents: Megatron-LM's .bin and .idx, datatrove's .ds and .ds.index.

Megatron's index: b"MMIDIDX", two zeros, version 1 (uint64), a dtype code (uint8), the numbers of
sequences and of document bounds (uint64 each); then each sequence's length (int32) and its byte
offset in the .bin (int64), and the bounds: documents' first sequences, and the number of sequences.
datatrove's index: the end of each document in the .ds, in tokens (uint64). All little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .skipped_records import Skipped

# Beginning of Megatron's index, its header, its codes of dtypes, and suffixes of token files.
MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
SUFFIXES = (".idx", ".bin", ".ds")


@dataclass(frozen=True)
class Tokenized:
    """Tokenised documents of a file, mapped into memory; `len` is their number.

    tokens: all tokens, in the file's dtype. sequences: start in `tokens` and length of each
    sequence, int64 [n, 2]. bounds: first sequence of each document, then n, int64 [documents + 1].
    """

    tokens: np.ndarray
    sequences: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def document(self, number: int) -> np.ndarray:
        """Return the tokens of a document, numbered from 0, in the file's dtype.

        Raises ValueError if they lie outside the file.
        """
        pieces = []
        for begin, length in self.sequences[self.bounds[number] : self.bounds[number + 1]].tolist():
            piece = self.tokens[begin : begin + length]
            if begin < 0 or len(piece) != length:
                raise ValueError("tokens lie outside the file")
            pieces.append(piece)
        return np.concatenate(pieces) if pieces else self.tokens[:0]


def open_tokenized(path: str | Path) -> Tokenized:
    """Open a .ds file with the .ds.index beside it, or either file of a pair of .bin and .idx.

    Tokens of a .ds have 4 bytes if the file is large enough for its index, else 2. Raises
    ValueError if the files are damaged, OSError if they cannot be read.
    """
    path = Path(path)
    return _datatrove(path) if path.suffix == ".ds" else _megatron(path.with_suffix(""))


def token_documents(
    path: str, eos: int, vocab_size: int, skipped: Skipped
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number from 1, int32 tokens without EOS) of each document in a file.

    A document is split at each EOS inside it; its parts have the same number. eos: id of EOS in the
    file. Unreadable files, and documents that are empty, lie outside the file or contain ids of
    `vocab_size` or more, are counted in `skipped`.
    """
    try:
        file = open_tokenized(path)
    except (OSError, ValueError) as error:
        skipped.add("unreadable tokens", f"{path} ({error})")
        return
    for number in range(len(file)):
        where = f"{path}:{number + 1}"
        try:
            tokens = file.document(number)
        except ValueError:
            skipped.add("tokens beyond the end of the file", where)
            continue
        pieces = [piece[piece != eos] for piece in np.split(tokens, np.flatnonzero(tokens == eos))]
        pieces = [piece for piece in pieces if len(piece)]
        if not pieces:
            skipped.add("empty", where)
        elif tokens.min() < 0 or tokens.max() >= vocab_size:
            skipped.add("tokens outside the vocabulary", where)
        else:
            yield from ((number + 1, piece.astype(np.int32)) for piece in pieces)


def _megatron(stem: Path) -> Tokenized:
    index, data = stem.with_name(f"{stem.name}.idx"), stem.with_name(f"{stem.name}.bin")
    size = os.path.getsize(index)
    with index.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size or header[:9] != MAGIC:
        raise ValueError("not a Megatron index")
    _, version, code, sequences, bounds = HEADER.unpack(header)
    if version != 1 or code not in DTYPES:
        raise ValueError(f"unsupported version {version} or dtype code {code}")
    lengths_at, places_at = HEADER.size, HEADER.size + 4 * sequences
    bounds_at = places_at + 8 * sequences
    if size < bounds_at + 8 * bounds:
        raise ValueError("the index is truncated")
    dtype = np.dtype(DTYPES[code])
    lengths = _mapped(index, "<i4", lengths_at, sequences)
    places = _mapped(index, "<i8", places_at, sequences)
    where = np.stack([places // dtype.itemsize, lengths.astype(np.int64)], axis=1)
    return _checked(_mapped(data, dtype), where, _mapped(index, "<i8", bounds_at, bounds))


def _datatrove(path: Path) -> Tokenized:
    ends = _mapped(path.with_name(f"{path.name}.index"), "<u8").astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    size = os.path.getsize(path)
    total = int(ends[-1]) if len(ends) else 0
    width = 4 if total and size >= 4 * total else 2
    where = np.stack([starts, ends - starts], axis=1)
    return _checked(_mapped(path, f"<u{width}"), where, np.arange(len(ends) + 1))


def _checked(tokens: np.ndarray, sequences: np.ndarray, bounds: np.ndarray) -> Tokenized:
    steps = np.diff(bounds)
    if not len(bounds) or bounds[0] != 0 or (steps < 0).any() or bounds[-1] > len(sequences):
        raise ValueError("the index's documents are out of order")
    begins, lengths = sequences[:, 0], sequences[:, 1]
    if (lengths < 0).any():
        raise ValueError("the index holds negative lengths")
    if lengths[(begins >= 0) & (begins <= len(tokens) - lengths)].sum() > len(tokens):
        raise ValueError("the index lists the same tokens more than once")
    return Tokenized(tokens, sequences, bounds)


def _mapped(
    path: Path, dtype: str | np.dtype, offset: int = 0, count: int | None = None
) -> np.ndarray:
    """Map a file, or part of it, read-only into memory; an empty file gives an empty array."""
    width = np.dtype(dtype).itemsize
    count = (os.path.getsize(path) - offset) // width if count is None else count
    if not count:
        return np.zeros(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,)))
