"""Best-fit packing: sequences consist of whole documents, none of which is truncated.

The method is that of Ding et al. 2024, "Fewer Truncations Improve Language Modeling". Each split of
each source gets two arrays beside its shards, built once per sequence length. Their names contain a
hash of the shards, so that stale packings are never read:

    <split>.packed-<S>-<hash>.pieces     int64 [pieces, 2], little-endian, without header: start of
                                         each piece in the stream, and its length
    <split>.packed-<S>-<hash>.sequences  int64 [sequences + 1, 2], likewise: each sequence's first
                                         piece, and the labels in all before it; totals come last
    ….sha256                             hash of each file, checked before training

A sequence has room for S + 1 tokens, the last of which is only a label. A longer document is cut
into pieces that share one token, so that each of its tokens is predicted once.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..durable_files import Damaged, atomic_write, check_once, read_seal
from .prepared import SPLITS, document_end, lock_directory

BLOCK = 1 << 20  # documents packed together: memory stays bounded
CHUNK = 1 << 22  # tokens read at a time


def pack(
    directory: str | Path,
    manifest: dict[str, Any],
    sequence_length: int,
    progress: Callable[[str, int], None] = lambda stage, done: None,
) -> None:
    """Write the best-fit packing of each source and split for a sequence length, unless it exists.

    Damaged files are written again. manifest: that of `directory`. progress: called with (activity,
    0) as each begins.
    """
    root = Path(directory)
    missing = [
        (source, split)
        for source in manifest["sources"]
        for split in SPLITS
        if not _is_packed(root, packed_paths(root, source, split, sequence_length), progress)
    ]
    if not missing:
        return
    with lock_directory(root, lambda: progress(f"waiting for the process at {root}", 0)):
        for source, split in missing:
            progress(f"packing {source['name']}", 0)
            lengths = document_lengths(root, manifest, source[split]["shards"])
            first, second = packed_paths(root, source, split, sequence_length)
            with (
                atomic_write(first, sealed=True) as pieces_file,
                atomic_write(second, sealed=True) as sequences_file,
            ):
                for pieces, sequences in pack_documents(lengths, sequence_length):
                    pieces_file.write(pieces.astype("<i8").tobytes())
                    sequences_file.write(sequences.astype("<i8").tobytes())


def _is_packed(root: Path, paths: tuple[Path, Path], progress: Callable[[str, int], None]) -> bool:
    """Return whether both arrays exist undamaged; report damaged ones to `progress`."""
    if not any(path.exists() for path in paths):
        return False
    try:
        seals = [(path, read_seal(path)) for path in paths]
        check_once(seals, root / ".verified.json", lambda done: None)
    except Damaged as error:
        progress(f"{error}: packing again", 0)
        return False
    return True


def packed_paths(
    root: Path, source: dict[str, Any], split: str, sequence_length: int
) -> tuple[Path, Path]:
    """Return the paths of the (pieces, sequences) files that pack one split of a source.

    root: directory of the prepared data. source: its part of the manifest.
    """
    hashes = "".join(shard["sha256"] for shard in source[split]["shards"])
    shards = hashlib.sha256(hashes.encode()).hexdigest()[:12]
    stem = root / source["name"] / f"{split}.packed-{sequence_length}-{shards}"
    return stem.with_name(f"{stem.name}.pieces"), stem.with_name(f"{stem.name}.sequences")


def document_lengths(
    root: Path, manifest: dict[str, Any], shards: list[dict[str, Any]]
) -> Iterator[np.ndarray]:
    """Yield the documents' lengths in tokens, end token included, in order; int64 [n] at a time.

    root: directory of the prepared data. shards: the manifest's entries of one split of a source.
    """
    end, start, last = document_end(manifest), 0, 0
    for shard in shards:
        tokens = np.memmap(root / shard["file"], dtype=manifest["dtype"], mode="r")
        for begin in range(0, len(tokens), CHUNK):
            ends = np.flatnonzero(tokens[begin : begin + CHUNK] == end) + (start + begin + 1)
            yield np.diff(ends, prepend=last)
            last = int(ends[-1]) if len(ends) else last
        start += shard["tokens"]


def pack_documents(
    lengths: Iterable[np.ndarray], sequence_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pack documents; yield blocks of rows of the two files, (pieces, sequences), int64 [n, 2].

    The module's docstring describes the columns. `BLOCK` documents are packed together; the last
    rows are only the totals. lengths: lengths of the documents in order, as from
    `document_lengths`.
    """
    start, done, labels, room = 0, 0, 0, sequence_length + 1
    for block in _blocks(lengths):
        pieces = _cut(block, sequence_length)
        sequence = best_fit(pieces[:, 1], room)
        pieces = pieces[np.argsort(sequence, kind="stable")]
        counts = np.bincount(sequence)
        first = np.cumsum(counts) - counts
        own = np.add.reduceat(pieces[:, 1], first) - 1
        before = np.cumsum(own) - own
        pieces[:, 0] += start
        yield pieces, np.stack([first + done, before + labels], axis=1)
        start, done, labels = start + int(block.sum()), done + len(pieces), labels + int(own.sum())
    yield np.zeros((0, 2), dtype=np.int64), np.array([[done, labels]])


def _blocks(lengths: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Regroup the lengths into arrays of BLOCK elements; the last one may be shorter."""
    pending: list[np.ndarray] = []
    count = 0
    for array in lengths:
        while count + len(array) >= BLOCK:
            head, array = np.split(array, [BLOCK - count])
            yield np.concatenate([*pending, head])
            pending, count = [], 0
        pending.append(array)
        count += len(array)
    if count:
        yield np.concatenate(pending)


def _cut(lengths: np.ndarray, sequence_length: int) -> np.ndarray:
    """Cut documents into pieces; return (start, length) of each in order, int64 [pieces, 2].

    Consecutive pieces of a document share a token.
    """
    starts = np.cumsum(lengths) - lengths
    counts = np.maximum(1, -(-(lengths - 1) // sequence_length))
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = number * sequence_length
    length = np.minimum(np.repeat(lengths, counts) - begin, sequence_length + 1)
    return np.stack([np.repeat(starts, counts) + begin, length], axis=1)


def best_fit(sizes: np.ndarray, room: int) -> np.ndarray:
    """Return the bin of each item, numbered from 0, int64 [items].

    sizes: size of each item, int64 [items], from 1 to `room`. room: capacity of a bin.

    Best-fit decreasing: the largest item first, each into the fullest bin with room for it. Items
    of one size, and bins with equal room, are handled together, so the time depends on the number
    of distinct sizes, not on the number of items.
    """
    bins = np.empty(len(sizes), dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    ends = np.flatnonzero(np.diff(sizes[order])) + 1
    left: dict[int, list[np.ndarray]] = {}  # room → bins with that room
    rooms: list[int] = []  # its keys, sorted
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
                candidates = np.concatenate(left.pop(free))
            else:
                free = room
                candidates = np.arange(opened, opened - (-len(items) // (room // size)))
                opened += len(candidates)
            fit = free // size  # items per bin
            full, rest = divmod(len(items), fit)
            used = min(len(candidates), full + bool(rest))
            placed = min(len(items), used * fit)
            bins[items[:placed]] = np.repeat(candidates[:used], fit)[:placed]
            partly = placed - (used - 1) * fit  # items in the last bin
            put(free - fit * size, candidates[: used - 1])
            put(free - partly * size, candidates[used - 1 : used])
            put(free, candidates[used:])
            items = items[placed:]
    return bins
