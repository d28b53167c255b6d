"""Sequences for preference tuning: pairs of a chosen and a rejected answer to one prompt.

Rows 2i and 2i + 1 are the chosen and the rejected conversation of a pair, each a sequence followed
by padding. Pairs are mixed and shuffled by `mixture`, to which a pair is one sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..kernels.padding import PADDING
from .mixture import Mixture


class Pairs:
    """Mixture of the preference pairs in a directory of prepared data.

    split: "train" or "validation". sequence_length: predicted tokens of one conversation. seed:
    seed of the order of training pairs. padding_input: id that replaces padding in a model's input.
    """

    padding_input = 0

    def __init__(self, directory: str | Path, split: str, sequence_length: int, seed: int) -> None:
        # To the mixture a pair is one sequence of twice the tokens.
        self.mixture = Mixture(directory, split, 2 * sequence_length + 1, seed, packing="pairs")
        self.split, self.sequence_length = split, sequence_length
        self.first = np.cumsum([0, *self.mixture.windows])  # pair of each source, then their number

    @property
    def pairs(self) -> int:
        """Return the number of distinct pairs in the split."""
        return int(self.first[-1])

    @property
    def batch_checksum(self) -> int:
        """Return the checksum of the last batch read, as `Mixture.read_sequences` defines it."""
        return self.mixture.batch_checksum

    def __len__(self) -> int:
        """Return the number of rows in the validation split, two per pair; TypeError for training.

        The split ends before its first source would run out of pairs.
        """
        return 2 * len(self.mixture)

    def read_sequences(self, starts: Iterable[int], count: int) -> np.ndarray:
        """Return `count` rows from each start, int64 [n · count, sequence_length + 1].

        Starts and `count` are even, as rows come in pairs.
        """
        pairs = self.mixture.read_sequences((start // 2 for start in starts), count // 2)
        return pairs.reshape(-1, self.sequence_length + 1)

    def answers(self, starts: Iterable[int], count: int) -> np.ndarray:
        """Return the number of the answer in each row of `read_sequences(starts, count)`.

        int64 [n · count]. Pair i of the split has the answers 2i, chosen, and 2i + 1, rejected; -1
        stands for rows beyond the end of the validation split.
        """
        ranges = [self._pairs(start // 2, count // 2) for start in starts]
        pairs = np.concatenate(ranges)[:, None]
        return np.where(pairs < 0, -1, 2 * pairs + [0, 1]).reshape(-1)

    def _pairs(self, start: int, count: int) -> np.ndarray:
        source, _, window = self.mixture.locate(start, count)
        pairs = self.first[source] + window
        if not self.mixture.shuffled:
            pairs[max(0, len(self.mixture) - start) :] = -1
        return pairs

    def read(self, pair: int, out: np.ndarray) -> None:
        """Write the two rows of pair number `pair` to `out`, int64 [2 · (sequence_length + 1)]."""
        source = int(np.searchsorted(self.first, pair, side="right")) - 1
        self.mixture.streams[source].read(0, pair - int(self.first[source]), out)


class OrderedPairs:
    """Pairs of a split in order of their numbers, each once, followed by rows of padding.

    padding_input: as in `Pairs`.
    """

    padding_input = 0

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def read_sequences(self, starts: Iterable[int], count: int) -> np.ndarray:
        """Return `count` rows from each start, int64 [n · count, sequence_length + 1].

        Starts and `count` are even.
        """
        length = self.pairs.sequence_length + 1
        numbers = [pair for start in starts for pair in range(start // 2, (start + count) // 2)]
        out = np.full((len(numbers), 2 * length), PADDING, dtype=np.int64)
        for row, pair in zip(out, numbers, strict=True):
            if pair < self.pairs.pairs:
                self.pairs.read(pair, row)
        return out.reshape(-1, length)
