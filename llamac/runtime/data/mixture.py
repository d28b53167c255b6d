"""Stateless mixture of sources: the tokens of any training sequence are a function of its index.

Training is divided into periods of PERIOD sequences. In each period, every source has a fixed
number of slots, exact to one in PERIOD and spread so evenly that any range of sequences is close to
the shares. A sequence's index thus determines its source and its number k within the source. The
source is divided into n windows; k // n is the epoch, and a pseudo-random permutation of the
windows, different in each epoch and computed per element, maps k % n to a window. If shares change
during training, each phase has its own period and continues the counts of the previous one.

No table grows with the data and no state is kept, so a run resumes from one integer, and any rank
can compute any sequence directly.
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

PERIOD = 10_000  # sequences after which the sources' order repeats
ROUNDS = 5  # of mixing in `permute`
FEW_DOCUMENTS = 10  # with fewer documents, the validation split may be empty by chance


@dataclass(frozen=True)
class _Phase:
    """A range of training sequences with one set of shares.

    begin: its first sequence. slots: sequences of each source per period, int64 [sources].
    source_of, rank_of: source of each slot of a period, and number of earlier slots of that source,
    int64 [PERIOD]. before: sequences of each source in all earlier phases, int64 [sources].
    """

    begin: int
    slots: np.ndarray
    source_of: np.ndarray
    rank_of: np.ndarray
    before: np.ndarray

    def seen(self, count: int) -> np.ndarray:
        """Return how many sequences of each source precede this phase's `count`-th one."""
        periods, rest = divmod(count, PERIOD)
        in_part = np.bincount(self.source_of[:rest], minlength=len(self.slots))
        return self.before + periods * self.slots + in_part


CHECKSUM_TOKENS = 64  # a sequence's checksum covers its first tokens only


class Mixture:
    """Sequences of a directory of prepared data, mixed according to the sources' shares.

    A sequence has `sequence_length` + 1 tokens; consecutive windows of a source share one token, so
    that each token is predicted once per epoch. The split "train" is infinite: each epoch visits
    every window of a source once, in a new order. The split "validation" has the same proportions,
    in the text's order; its `len(mixture)` sequences end before the first source would run out, and
    further ones are padding. Sources whose held-out documents do not fill one window are listed in
    `left_out`; the others keep their proportions.

    Attributes:
        names: names of the mixed sources.
        windows: sequences per epoch of each of them, int64 [sources].
        left_out: names of sources without a validation sequence.
        batch_checksum: see `read_sequences`; 0 before its first call.

    Args:
        directory: prepared data.
        split: "train" or "validation".
        sequence_length: number of predicted tokens per sequence.
        seed: seed of the order of windows.
        packing: "concatenate"; "best_fit" for whole documents followed by PADDING; or "pairs", see
            `preference_pairs`.
        phases: changes of the shares in training, in order, each {"at": number of tokens, "shares":
            {source: share}}. Shares are those of predicted tokens: a source whose packing leaves
            more padding gets more sequences.
        padding_input: id that replaces padding in a model's input; PADDING for a model whose
            document mask reads it.

    Raises:
        PreparedDataError: the data is damaged; a source's training split, or each source's
            validation split, has too few tokens for one sequence; or a share is below 1/PERIOD.
        ValueError: unknown split or packing.
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
        """Return the number of sequences in the validation split; TypeError for training."""
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

        source: index into `names`. window: number of the sequence in `streams[source]`.
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

        Sequences beyond the end of the validation split are PADDING. Raises IndexError if `start`
        is negative.
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
        """Return `sequences(start, count)` of all starts, int64 [n · count, sequence_length + 1].

        Sets `batch_checksum` to the CRC-32 of the first `CHECKSUM_TOKENS` tokens of the first row.
        """
        sequences = np.concatenate([self.sequences(start, count) for start in starts])
        self.batch_checksum = crc32(sequences[0, :CHECKSUM_TOKENS].tobytes())
        return sequences

    def epochs_at(self, index: int) -> dict[str, float]:
        """Return source → number of its epochs, with fraction, in the first `index` sequences."""
        return dict(zip(self.names, (self._seen(index) / self.windows).tolist(), strict=True))

    def tokens_at(self, index: int) -> dict[str, float]:
        """Return source → number of predicted tokens in the first `index` sequences.

        Padding is left out, estimated by a packed source's mean.
        """
        fill = np.array([stream.fill for stream in self.streams]) * self.sequence_length
        return dict(zip(self.names, (self._seen(index) * fill).tolist(), strict=True))

    def _seen(self, index: int) -> np.ndarray:
        phase = next(phase for phase in reversed(self._phases) if phase.begin <= index)
        return phase.seen(index - phase.begin)


def _phases(
    changes: Sequence[tuple[int, Mapping[str, float]]], streams: Sequence[Stream]
) -> list[_Phase]:
    """Build the phases. changes: (first sequence, shares by source), in order."""
    phases: list[_Phase] = []
    before = np.zeros(len(streams), dtype=np.int64)
    names = [stream.name for stream in streams]
    for begin, shares in changes:
        if phases:
            before = phases[-1].seen(begin - phases[-1].begin)
        slots = _slots([shares[stream.name] / stream.fill for stream in streams], names)
        phases.append(_Phase(begin, slots, *_period(slots), before))
    return phases


def permute(index: np.ndarray, n: int, key: str) -> np.ndarray:
    """Apply a pseudo-random permutation of 0 … n - 1 to `index` (int64, any shape).

    key: seed of the permutation. On b bits, x → x·odd + c and x → x ^ (x >> b/2) are bijections,
    and a few keyed rounds mix well. Results of n or more are permuted again until they are smaller
    (cycle walking), which is still a bijection, and takes less than two passes on average, as
    2^b < 2n.
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
