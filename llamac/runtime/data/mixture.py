"""Map each training sequence to its tokens in closed form, so that a run resumes from one integer.

Training is divided into periods of PERIOD sequences. In each, every source owns a fixed number of
slots, exact to one in PERIOD and spread so evenly that any stretch is close to the shares. A
sequence's index thus gives its source and its number k within the source by arithmetic alone. The
source is cut into n windows; k // n is the epoch, and a pseudo-random permutation of the windows,
different in each epoch and computed per element, maps k % n to a window. Where shares change during
training, each phase has its own period and continues the counts of the one before.

No table grows with the data and no state is kept: any rank can compute any index directly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from ..kernels.padding import PADDING
from .prepared import SPLITS, PreparedDataError, load_manifest
from .token_streams import Stream, open_stream

PERIOD = 10_000
ROUNDS = 5
FEW_DOCUMENTS = 10  # with fewer documents, the validation split may be empty by chance


@dataclass(frozen=True)
class _Phase:
    """A stretch of training under one set of shares.

    begin: its first sequence. slots: sequences of each source per period. before: sequences of each
    source in all earlier phases. Both int64 [sources].
    """

    begin: int
    slots: np.ndarray
    source_of: np.ndarray
    rank_of: np.ndarray
    before: np.ndarray

    def seen(self, count: int) -> np.ndarray:
        """Return the sequences of each source before this phase's `count`-th, int64 [sources]."""
        periods, rest = divmod(count, PERIOD)
        in_part = np.bincount(self.source_of[:rest], minlength=len(self.slots))
        return self.before + periods * self.slots + in_part


BEGINNING = 64  # tokens from which a sequence's checksum is computed


class Mixture:
    """Sequences of a prepared directory, mixed by the sources' shares.

    A sequence has `sequence_length` + 1 tokens; consecutive windows of a source share one token, so
    that each token is predicted once per epoch. packing: "concatenate", "best_fit" for whole
    documents followed by padding.PADDING, or "pairs" as `preference_pairs` has them.

    split "train": endless; each epoch visits every window of a source once, in a new order.
    split "validation": the same proportions in the text's order; `len(mixture)` sequences, until
    the first source would run out, and padding beyond. Sources whose held-out documents do not
    fill one window are `left_out`; the others keep their proportions.

    phases: changes of shares after a number of tokens, each {"at": tokens, "shares": {source:
    share}}, in order; for training only. Shares are of predicted tokens: a source whose packing
    leaves more padding gets more sequences.

    padding_input: what padding becomes as a model's input: any token, or PADDING for a model that
    tells documents apart by it.
    """

    def __init__(
        self,
        directory: str | Path,
        split: str,
        sequence_length: int,
        seed: int,
        packing: str = "concatenate",
        phases: Sequence[Mapping[str, Any]] = (),
        padding_input: int = 0,
    ):
        manifest = load_manifest(directory)
        self.sequence_length, self.seed, self.shuffled = sequence_length, seed, split == "train"
        self.padding_input = padding_input
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        streams = [
            open_stream(Path(directory), manifest, source, split, sequence_length, packing)
            for source in manifest["sources"]
        ]
        shares = {source["name"]: source["share"] for source in manifest["sources"]}
        short = [stream.name for stream in streams if stream.windows < 1]
        if (self.shuffled and short) or len(short) == len(streams):
            source = next(s for s in manifest["sources"] if s["name"] == short[0])
            raise PreparedDataError(_too_short(source, split, sequence_length))
        self.left_out, self.batch_checksum = tuple(short), 0
        self.streams = [stream for stream in streams if stream.name not in short]
        self.names = tuple(stream.name for stream in self.streams)
        self.windows = np.array([stream.windows for stream in self.streams], dtype=np.int64)
        changes = [(0, shares)]
        for phase in phases if self.shuffled else ():
            changes.append((-(-phase["at"] // sequence_length), phase["shares"]))
        self._phases = _phases(changes, self.streams)
        self._end = self._first_beyond()

    def __len__(self) -> int:
        """Return the number of sequences in the validation split."""
        if self.shuffled:
            raise TypeError("the training split is infinite")
        return self._end

    def _first_beyond(self) -> int:
        """Return the first sequence that would need a window beyond a source's last."""
        phase = self._phases[0]
        drawn = np.flatnonzero(phase.slots)
        periods, ranks = np.divmod(self.windows[drawn], phase.slots[drawn])
        return min(
            int(period) * PERIOD + int(np.flatnonzero(phase.source_of == source)[rank])
            for source, period, rank in zip(drawn, periods, ranks, strict=True)
        )

    def locate(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (source, epoch, window) of sequences [start, start + count), int64 [count] each.

        `source` indexes `names`.
        """
        index = np.arange(start, start + count, dtype=np.int64)
        begins = np.array([phase.begin for phase in self._phases])
        which = np.searchsorted(begins, index, side="right") - 1
        source, k = np.empty_like(index), np.empty_like(index)
        for number in np.unique(which):
            phase, here = self._phases[number], which == number
            period, slot = np.divmod(index[here] - phase.begin, PERIOD)
            source[here] = own = phase.source_of[slot]
            k[here] = phase.before[own] + period * phase.slots[own] + phase.rank_of[slot]
        epoch, window = np.divmod(k, self.windows[source])
        if self.shuffled:
            for s, e in {*zip(source.tolist(), epoch.tolist(), strict=True)}:
                here = (source == s) & (epoch == e)
                key = f"{self.seed}\0{self.names[s]}\0{e}"
                window[here] = permute(window[here], int(self.windows[s]), key)
        return source, epoch, window

    def sequences(self, start: int, count: int) -> np.ndarray:
        """Return sequences [start, start + count), int64 [count, sequence_length + 1].

        Beyond the end of the validation split all of them are PADDING.
        """
        if start < 0:
            raise IndexError(f"sequence {start} is out of range")
        out = np.full((count, self.sequence_length + 1), PADDING, dtype=np.int64)
        real = count if self.shuffled else min(count, max(0, self._end - start))
        places = (column.tolist() for column in self.locate(start, real))
        for row, source, epoch, window in zip(out[:real], *places, strict=True):
            self.streams[source].read(epoch, window, row)
        return out

    def read_sequences(self, starts: Iterable[int], count: int) -> np.ndarray:
        """Return `sequences(start, count)` for each start, concatenated.

        `batch_checksum` becomes that of the beginning of the first of them.
        """
        found = np.concatenate([self.sequences(start, count) for start in starts])
        self.batch_checksum = crc32(found[0, :BEGINNING].tobytes())
        return found

    def epochs_at(self, index: int) -> dict[str, float]:
        """Return the epochs of each source within the first `index` sequences."""
        return dict(zip(self.names, (self._seen(index) / self.windows).tolist(), strict=True))

    def tokens_at(self, index: int) -> dict[str, float]:
        """Return the tokens (not padding) of each source in the first `index` sequences."""
        fill = np.array([stream.fill for stream in self.streams]) * self.sequence_length
        return dict(zip(self.names, (self._seen(index) * fill).tolist(), strict=True))

    def _seen(self, index: int) -> np.ndarray:
        phase = next(phase for phase in reversed(self._phases) if phase.begin <= index)
        return phase.seen(index - phase.begin)


def _phases(
    changes: Sequence[tuple[int, Mapping[str, float]]], streams: Sequence[Stream]
) -> list[_Phase]:
    """Build the phases. changes: (first sequence, shares by source), in order."""
    found: list[_Phase] = []
    before = np.zeros(len(streams), dtype=np.int64)
    names = [stream.name for stream in streams]
    for begin, shares in changes:
        if found:
            before = found[-1].seen(begin - found[-1].begin)
        slots = _slots([shares[stream.name] / stream.fill for stream in streams], names)
        found.append(_Phase(begin, slots, *_period(slots), before))
    return found


def permute(index: np.ndarray, n: int, key: str) -> np.ndarray:
    """Apply a pseudo-random permutation of 0 … n − 1 to `index` (int64, any shape).

    On b bits, x → x·odd + c and x → x ^ (x >> b/2) are bijections; a few keyed rounds mix well.
    Results ≥ n are permuted again until they are below (cycle walking): still a bijection, and
    less than two passes on average, as 2^b < 2n.
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
    """Return each source's sequences per PERIOD, by largest remainder, int64 [sources]."""
    exact = np.array(shares) / sum(shares) * PERIOD
    slots = np.floor(exact).astype(np.int64)
    order = np.argsort(slots - exact, kind="stable")  # the largest remainder first
    slots[order[: PERIOD - slots.sum()]] += 1
    if missed := [name for name, e, n in zip(names, exact, slots, strict=True) if e and not n]:
        name = missed[0]
        raise PreparedDataError(f"source {name!r}: its share is below the minimum of 1/{PERIOD:,}")
    return slots


def _period(slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (source, number of earlier slots of that source) for each slot of a period.

    The j-th of a source's c slots is due at (j + ½)/c of the period; sorting by due time (Webster's
    method) keeps every prefix of the period close to the shares.
    """
    source = np.repeat(np.arange(len(slots)), slots)
    rank = np.concatenate([np.arange(c) for c in slots]).astype(np.int64)
    order = np.lexsort((source, (2 * rank + 1) / (2 * slots[source])))
    return source[order], rank[order]


def _too_short(source: dict[str, Any], split: str, sequence_length: int) -> str:
    documents = sum(source[split]["documents"] for split in SPLITS)
    if documents < FEW_DOCUMENTS:
        remedy = (
            f"it got {source[split]['documents']} of the source's {documents} documents; add "
            "documents (a short text file is one, each line of a .jsonl is one)"
        )
    elif split == "train":
        remedy = "give it more text or lower batch.sequence_length"
    else:
        remedy = "raise data.validation or lower batch.sequence_length"
    return (
        f"source {source['name']!r} has fewer than {sequence_length + 1} tokens in its {split} "
        f"split, not enough for one sequence: {remedy}"
    )
