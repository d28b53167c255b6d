"""Read a source's tokens as sequences: windows of a token stream, or packed documents."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..kernels.padding import PADDING
from .packing import document_lengths, packed_paths
from .prepared import PreparedDataError


@dataclass(frozen=True)
class Tokens:
    """The tokens of one split of a source as a stream; shards are mapped into memory on first use.

    name: the source's name. dtype: dtype of the shards. starts: index in the stream of each shard's
    first token, then the stream's length. mapped: shard number → its tokens, filled on use.
    """

    name: str
    shards: list[Path]
    dtype: str
    starts: list[int]
    mapped: dict[int, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, start: int, out: np.ndarray) -> None:
        """Copy the n tokens from `start` on into `out`, int64 [n], across shards.

        Raises PreparedDataError if the stream ends before them.
        """
        shard, filled = bisect_right(self.starts, start) - 1, 0
        try:
            while filled < len(out):
                begin = start + filled - self.starts[shard]
                piece = self._shard(shard)[begin : begin + len(out) - filled]
                out[filled : filled + len(piece)] = piece
                filled, shard = filled + len(piece), shard + 1
        except IndexError as error:
            raise PreparedDataError(
                f"source {self.name!r} has no tokens {start:,} to {start + len(out) - 1:,}: "
                f"delete the *.packed-* files in {self.shards[0].parent} and start again"
            ) from error

    def _shard(self, number: int) -> np.ndarray:
        if number not in self.mapped:
            mapped = np.memmap(self.shards[number], dtype=self.dtype, mode="r")
            # As a plain array: slicing a memmap object costs more than copying a sequence.
            self.mapped[number] = np.asarray(mapped)
        return self.mapped[number]


class Stream(Protocol):
    """Sequences of one split of a source.

    name: the source's name. windows: number of sequences per epoch. fill: fraction of the labels
    that are not padding.
    """

    name: str
    windows: int
    fill: float

    def read(self, epoch: int, window: int, out: np.ndarray) -> None:
        """Write sequence number `window` of an epoch to `out`, int64 [sequence_length + 1]."""
        ...


class ConcatenatedStream:
    """Windows of sequence_length + 1 consecutive tokens, each sharing one token with the next.

    ring: whether each epoch begins where the previous one ended, as in training. Tokens that do not
    fill a window then come first in the next epoch, so all tokens are seen equally often.
    """

    fill = 1.0

    def __init__(self, tokens: Tokens, sequence_length: int, ring: bool) -> None:
        self.name, self.tokens, self.length, self.ring = tokens.name, tokens, sequence_length, ring
        enough = len(tokens) > sequence_length
        self.windows = (len(tokens) - (not ring)) // sequence_length if enough else 0

    def start(self, epoch: int, window: int) -> int:
        """Return the index in the token stream of a window's first token.

        epoch, window: numbers from 0.
        """
        start = window * self.length
        return (epoch * self.windows * self.length + start) % len(self.tokens) if epoch else start

    def read(self, epoch: int, window: int, out: np.ndarray) -> None:
        start = self.start(epoch, window)
        ahead = min(len(out), len(self.tokens) - start)
        self.tokens.read(start, out[:ahead])
        if ahead < len(out):
            self.tokens.read(0, out[ahead:])


class PackedStream:
    """Sequences of whole documents followed by padding, from the files that `packing.pack` writes.

    root: directory of the prepared data. source: its part of the manifest. length: predicted tokens
    per sequence. Raises PreparedDataError if the files are missing or truncated.
    """

    def __init__(self, root: Path, source: dict[str, Any], split: str, tokens: Tokens, length: int):
        paths = packed_paths(root, source, split, length)
        try:
            self.pieces, sequences = (_rows(path) for path in paths)
            self.first, (pieces, labels) = sequences[:, 0], sequences[-1].tolist()
            windows = len(self.first) - 1
            if pieces != len(self.pieces) or not bool(windows) <= labels <= windows * length:
                raise ValueError("the file is truncated")
        except (OSError, ValueError, IndexError) as error:
            raise PreparedDataError(
                f"{paths[0].parent} is not packed for sequences of {length}: delete "
                f"{paths[0].name} and {paths[1].name} there and start again"
            ) from error
        self.name, self.tokens, self.windows = tokens.name, tokens, len(self.first) - 1
        self.fill = labels / (self.windows * length) if self.windows else 1.0

    def read(self, epoch: int, window: int, out: np.ndarray) -> None:
        filled = 0
        for start, length in self.pieces[self.first[window] : self.first[window + 1]].tolist():
            self.tokens.read(start, out[filled : filled + length])
            filled += length
        out[filled:] = PADDING


class PairedStream:
    """Pairs of consecutive documents, each in one half of a sequence and followed by padding.

    `fill` is 1 whatever the lengths, so sources are mixed by their numbers of pairs.
    """

    fill = 1.0

    def __init__(self, tokens: Tokens, ends: np.ndarray) -> None:
        """Open the pairs.

        ends: index in the stream after each document's end token, int64 [2 · windows].
        """
        self.name, self.tokens, self.windows = tokens.name, tokens, len(ends) // 2
        self.bounds = np.concatenate([np.zeros(1, np.int64), ends])

    def read(self, epoch: int, window: int, out: np.ndarray) -> None:
        for half, document in zip(np.split(out, 2), (2 * window, 2 * window + 1), strict=True):
            start, end = self.bounds[document : document + 2].tolist()
            self.tokens.read(start, half[: end - start - 1])
            half[end - start - 1 :] = PADDING


def _rows(path: Path) -> np.ndarray:
    """Map a file of int64 [rows, 2] into memory; an empty file gives an empty array."""
    if not path.stat().st_size:
        return np.zeros((0, 2), dtype=np.int64)
    return np.asarray(np.memmap(path, dtype="<i8", mode="r")).reshape(-1, 2)


def open_tokens(root: Path, manifest: dict[str, Any], source: dict[str, Any], split: str) -> Tokens:
    """Open the tokens of one split of a source without reading them.

    root: directory of the prepared data, which has `manifest`. source: its part of the manifest.
    """
    shards = source[split]["shards"]
    starts = [0, *accumulate(shard["tokens"] for shard in shards)]
    paths = [root / shard["file"] for shard in shards]
    return Tokens(source["name"], paths, manifest["dtype"], starts)


def open_stream(
    root: Path,
    manifest: dict[str, Any],
    source: dict[str, Any],
    split: str,
    sequence_length: int,
    packing: str,
) -> Stream:
    """Open the sequences of one split of a source.

    root: directory of the prepared data. source: its part of the manifest. packing: "concatenate",
    "best_fit" or "pairs"; ValueError for others. Raises PreparedDataError if the files of a
    best-fit packing are missing or truncated.
    """
    tokens = open_tokens(root, manifest, source, split)
    if packing == "best_fit":
        return PackedStream(root, source, split, tokens, sequence_length)
    if packing == "pairs":
        lengths = [
            *document_lengths(root, manifest, source[split]["shards"]),
            np.empty(0, np.int64),
        ]
        return PairedStream(tokens, np.concatenate(lengths).cumsum())
    if packing != "concatenate":
        raise ValueError(f"unknown packing {packing!r}")
    return ConcatenatedStream(tokens, sequence_length, ring=split == "train")
