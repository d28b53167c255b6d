"""Which tokens the n-th training sequence is made of: a closed form, so resuming is one integer.

Time is divided into periods of PERIOD sequences. Within each, every source owns a fixed number of
slots, exact to one in PERIOD and spread so evenly that any stretch is close to the shares. So a
sequence's index gives its source and its number k within the source by arithmetic alone. The
source is cut into n windows; k // n is the epoch, and a pseudo-random permutation of the windows,
computed per element and another in each epoch, turns k % n into a place in the tokens.

Nothing is built that grows with the data, and no state is kept: any index, on any rank, at once.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from .prepared import SPLITS, PreparedDataError, load_manifest

PERIOD = 10_000
ROUNDS = 5
FEW_DOCUMENTS = 10  # so few that which are held out is luck


@dataclass(frozen=True)
class _Tokens:
    """A split of a source: its shards, mapped into memory, read as one stream."""

    name: str
    shards: list[np.ndarray]
    starts: list[int]  # where in the stream each shard begins; then the stream's length

    def read(self, start: int, out: np.ndarray) -> None:
        """Copies the tokens from `start` into `out`, int64 [n], across shards."""
        shard, filled = bisect_right(self.starts, start) - 1, 0
        while filled < len(out):
            begin = start + filled - self.starts[shard]
            piece = self.shards[shard][begin : begin + len(out) - filled]
            out[filled : filled + len(piece)] = piece
            filled, shard = filled + len(piece), shard + 1


class Mixture:
    """Sequences of a prepared directory, mixed by the sources' shares.

    A sequence is a window of `sequence_length` + 1 tokens; neighbouring windows of a source share
    one token, so that each token is predicted once per epoch.

    split "train": endless; every window of a source once per epoch, in another order each epoch.
    split "validation": in the same proportions, but in the text's order and finite: `len(mixture)`
    sequences, up to where the first source would run out. Sources whose held-out documents do not
    fill one window are `left_out`, the others keep their proportions.
    """

    def __init__(self, directory: str | Path, split: str, sequence_length: int, seed: int):
        manifest = load_manifest(directory)
        self.sequence_length, self.seed, self.shuffled = sequence_length, seed, split == "train"
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}: {' or '.join(SPLITS)}")
        sources = [
            _open(Path(directory), manifest, source, split) for source in manifest["sources"]
        ]
        shares = {source["name"]: source["share"] for source in manifest["sources"]}
        short = [s.name for s in sources if _windows(s, sequence_length) < 1]
        if (self.shuffled and short) or len(short) == len(sources):
            source = next(s for s in manifest["sources"] if s["name"] == short[0])
            raise PreparedDataError(_too_short(source, split, sequence_length))
        self.left_out = tuple(short)
        self._sources = [source for source in sources if source.name not in short]
        self.names = tuple(source.name for source in self._sources)
        windows = [_windows(source, sequence_length) for source in self._sources]
        self.windows = np.array(windows, dtype=np.int64)
        self.slots = _slots([shares[name] for name in self.names], self.names)
        self._source_of, self._rank_of = _period(self.slots)
        self._end = self._first_beyond()

    def __len__(self) -> int:
        """How many sequences the validation split has."""
        if self.shuffled:
            raise TypeError("the training split has no end")
        return self._end

    def _first_beyond(self) -> int:
        """The first sequence that would need a source's window beyond its last."""
        periods, ranks = np.divmod(self.windows, self.slots)
        return min(
            int(period) * PERIOD + int(np.flatnonzero(self._source_of == source)[rank])
            for source, (period, rank) in enumerate(zip(periods, ranks, strict=True))
        )

    def locate(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(source, epoch, window) of sequences start … start + count − 1, each int64 [count].

        `source` indexes `names`; the window begins at token window · sequence_length.
        """
        period, slot = np.divmod(np.arange(start, start + count, dtype=np.int64), PERIOD)
        source = self._source_of[slot]
        k = period * self.slots[source] + self._rank_of[slot]
        epoch, window = np.divmod(k, self.windows[source])
        if self.shuffled:
            for s, e in {*zip(source.tolist(), epoch.tolist(), strict=True)}:
                here = (source == s) & (epoch == e)
                key = f"{self.seed}\0{self.names[s]}\0{e}"
                window[here] = permute(window[here], int(self.windows[s]), key)
        return source, epoch, window

    def sequences(self, start: int, count: int) -> np.ndarray:
        """The tokens of sequences start … start + count − 1, int64 [count, sequence_length + 1].

        Raises IndexError beyond the end of the validation split.
        """
        if start < 0 or (not self.shuffled and start + count > self._end):
            raise IndexError(f"sequences {start} to {start + count} of {self._end}")
        source, _, window = self.locate(start, count)
        out = np.empty((count, self.sequence_length + 1), dtype=np.int64)
        for row, s, w in zip(out, source.tolist(), window.tolist(), strict=True):
            self._sources[s].read(w * self.sequence_length, row)
        return out

    def picked(self, starts: Iterable[int], count: int) -> np.ndarray:
        """`sequences(start, count)` for each start, one after the other."""
        return np.concatenate([self.sequences(start, count) for start in starts])

    def epochs_at(self, index: int) -> dict[str, float]:
        """How many epochs of each source the first `index` sequences are."""
        periods, rest = divmod(index, PERIOD)
        seen = periods * self.slots + np.bincount(self._source_of[:rest], minlength=len(self.slots))
        return {
            name: float(epochs)
            for name, epochs in zip(self.names, seen / self.windows, strict=True)
        }


def permute(index: np.ndarray, n: int, key: str) -> np.ndarray:
    """A pseudo-random permutation of 0 … n − 1, applied to `index` (int64, any shape).

    On b bits, x → x·odd + c and x → x ^ (x >> b/2) are bijections; a few keyed rounds mix well. A
    result beyond n is sent through again until it falls inside: still a bijection, and less than
    two passes on average, as 2^b < 2n.
    """
    bits = max((n - 1).bit_length(), 1)
    mask, shift = np.uint64((1 << bits) - 1), np.uint64((bits + 1) // 2)
    random = hashlib.shake_128(key.encode()).digest(16 * ROUNDS)
    constants = np.frombuffer(random, dtype="<u8").reshape(ROUNDS, 2)

    def mix(x: np.ndarray) -> np.ndarray:
        for factor, offset in constants:
            x = (x * (factor | np.uint64(1)) + offset) & mask
            x = x ^ (x >> shift)
        return x

    out = mix(index.astype(np.uint64))
    while (outside := out >= n).any():
        out[outside] = mix(out[outside])
    return out.astype(np.int64)


def _slots(shares: Sequence[float], names: Sequence[str]) -> np.ndarray:
    """How many of PERIOD sequences each source gets: largest remainder. int64 [sources]."""
    exact = np.array(shares) / sum(shares) * PERIOD
    slots = np.floor(exact).astype(np.int64)
    order = np.argsort(slots - exact, kind="stable")  # the largest remainder first
    slots[order[: PERIOD - slots.sum()]] += 1
    if (slots == 0).any():
        name = names[int(np.argmin(slots))]
        raise PreparedDataError(f"source {name!r}: its share is less than one in {PERIOD:,}")
    return slots


def _period(slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(source, how many slots of that source came before) for each place in a period.

    The j-th of c slots wants to be at (j + ½)/c of the period; sorting all wishes (Webster's
    method) keeps every beginning of the period close to the shares.
    """
    source = np.repeat(np.arange(len(slots)), slots)
    rank = np.concatenate([np.arange(c) for c in slots])
    order = np.lexsort((source, (2 * rank + 1) / (2 * slots[source])))
    return source[order], rank[order]


def _open(root: Path, manifest: dict[str, Any], source: dict[str, Any], split: str) -> _Tokens:
    shards = source[split]["shards"]
    maps = [np.memmap(root / shard["file"], dtype=manifest["dtype"], mode="r") for shard in shards]
    starts = [0, *accumulate(shard["tokens"] for shard in shards)]
    # As plain arrays: slicing a memmap object costs more than copying a sequence.
    return _Tokens(source["name"], [np.asarray(m) for m in maps], starts)


def _windows(source: _Tokens, sequence_length: int) -> int:
    return (source.starts[-1] - 1) // sequence_length


def _too_short(source: dict[str, Any], split: str, sequence_length: int) -> str:
    documents = sum(source[split]["documents"] for split in SPLITS)
    if documents < FEW_DOCUMENTS:
        way_out = (
            f"of the source's few documents ({documents}), {source[split]['documents']} fell into "
            "it; give it more documents (a short text file is one, each line of a .jsonl is one)"
        )
    elif split == "train":
        way_out = "give it more text or lower batch.sequence_length"
    else:
        way_out = "raise data.validation or lower batch.sequence_length"
    return (
        f"source {source['name']!r} has fewer than {sequence_length + 1} tokens in its {split} "
        f"split, not enough for one sequence: {way_out}"
    )
