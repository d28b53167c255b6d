"""Best-fit packing: whole documents share sequences, and none is cropped (Ding et al. 2024,
"Fewer Truncations Improve Language Modeling").

Each split of each source gets two arrays beside its shards, made once for a sequence length:

    <split>.packed-<S>.pieces.npy     int64 [pieces, 2]: where a piece begins in the stream, and
                                      its length
    <split>.packed-<S>.sequences.npy  int64 [sequences + 1]: each one's first piece, then how many
                                      pieces there are

A sequence has room for S + 1 tokens, its last being a label only. A longer document is cut into
pieces that share one token, so that each of its tokens is predicted once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from .prepared import SPLITS, alone, write_array

BLOCK = 1 << 20  # documents packed together: memory stays bounded
CHUNK = 1 << 22  # tokens looked through at a time


def pack(
    directory: str | Path,
    manifest: dict[str, Any],
    sequence_length: int,
    progress: Callable[[str, int], None] = lambda stage, done: None,
) -> None:
    """Makes what is missing of a prepared directory's packing for this sequence length."""
    root = Path(directory)
    missing = [
        (source, split)
        for source in manifest["sources"]
        for split in SPLITS
        if not all(path.is_file() for path in packed_paths(root, source, split, sequence_length))
    ]
    if not missing:
        return
    with alone(root, lambda: progress(f"waiting for the process at {root}", 0)):
        for source, split in missing:
            progress(f"packing {source['name']}", 0)
            lengths = document_lengths(root, manifest, source[split]["shards"])
            arrays = pack_documents(lengths, sequence_length)
            paths = packed_paths(root, source, split, sequence_length)
            for path, array in zip(paths, arrays, strict=True):
                write_array(path, array)


def packed_paths(
    root: Path, source: dict[str, Any], split: str, sequence_length: int
) -> tuple[Path, Path]:
    stem = root / source["name"] / f"{split}.packed-{sequence_length}"
    return stem.with_name(f"{stem.name}.pieces.npy"), stem.with_name(f"{stem.name}.sequences.npy")


def document_lengths(
    root: Path, manifest: dict[str, Any], shards: list[dict[str, Any]]
) -> np.ndarray:
    """Tokens of each document with its EOS, int64 [documents], in the stream's order."""
    eos, ends = manifest["tokenizer"]["eos"], [np.zeros(1, dtype=np.int64)]
    starts = accumulate((shard["tokens"] for shard in shards), initial=0)
    for shard, start in zip(shards, starts, strict=False):
        tokens = np.memmap(root / shard["file"], dtype=manifest["dtype"], mode="r")
        for begin in range(0, len(tokens), CHUNK):
            found = np.flatnonzero(tokens[begin : begin + CHUNK] == eos)
            ends.append(found + (start + begin + 1))
    return np.diff(np.concatenate(ends))


def pack_documents(lengths: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
    """(pieces, sequences) as this module's files hold them, of documents one after the other."""
    blocks = list(_blocks(lengths, sequence_length))
    if not blocks:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(1, dtype=np.int64)
    pieces, counts = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return pieces, np.concatenate([[0], np.cumsum(counts)])


def _blocks(lengths: np.ndarray, sequence_length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(pieces, how many each sequence has) of every block of documents."""
    offset, room = 0, sequence_length + 1
    for begin in range(0, len(lengths), BLOCK):
        block = lengths[begin : begin + BLOCK]
        pieces = _cut(block, sequence_length)
        sequence = best_fit(pieces[:, 1], room)
        order = np.argsort(sequence, kind="stable")
        yield pieces[order] + [offset, 0], np.bincount(sequence)
        offset += int(block.sum())


def _cut(lengths: np.ndarray, sequence_length: int) -> np.ndarray:
    """int64 [pieces, 2]: (start, length) of documents' pieces, in order; neighbours in a document
    share a token."""
    starts = np.cumsum(lengths) - lengths
    counts = np.maximum(1, -(-(lengths - 1) // sequence_length))
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = number * sequence_length
    length = np.minimum(np.repeat(lengths, counts) - begin, sequence_length + 1)
    return np.stack([np.repeat(starts, counts) + begin, length], axis=1)


def best_fit(sizes: np.ndarray, room: int) -> np.ndarray:
    """Which bin each item goes into, int64 [items]; sizes are 1 … room.

    Best-fit decreasing: the largest item first, each into the fullest bin that has room for it.
    Items of one size and bins with one room left are handled together, so the time depends on how
    many different sizes there are, not on how many items.
    """
    bins = np.empty(len(sizes), dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    ends = np.flatnonzero(np.diff(sizes[order])) + 1
    left: dict[int, list[np.ndarray]] = {}  # room → the bins that have it
    rooms: list[int] = []  # the keys, sorted
    opened = 0

    def put(free: int, which: np.ndarray) -> None:
        if free and len(which):
            if free not in left:
                insort(rooms, free)
            left.setdefault(free, []).append(which)

    for items in np.split(order, ends) if len(order) else ():
        size = int(sizes[items[0]])
        while len(items):
            at = bisect_left(rooms, size)
            if at < len(rooms):
                free = rooms.pop(at)
                those = np.concatenate(left.pop(free))
            else:
                free = room
                those = np.arange(opened, opened - (-len(items) // (room // size)))
                opened += len(those)
            fit = free // size  # items that each of those bins takes
            full, rest = divmod(len(items), fit)
            used = min(len(those), full + bool(rest))
            placed = min(len(items), used * fit)
            bins[items[:placed]] = np.repeat(those[:used], fit)[:placed]
            partly = placed - (used - 1) * fit  # in the last bin that is used
            put(free - fit * size, those[: used - 1])
            put(free - partly * size, those[used - 1 : used])
            put(free, those[used:])
            items = items[placed:]
    return bins
