"""Log-probabilities of given tokens, processing each common prefix once.

`runtime/evaluate/choice_metrics.py` judges answers by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llamac.evaluate.prefix_groups import PrefixGroup, batches, group_by_prefix, waves

Progress = Callable[[int, int], None]
"""Called with how many of how many sequences have been read."""

Wanted = Mapping[int, set[int]]
"""Position → tokens whose log-probability after it is wanted."""

Found = dict[tuple[int, int], tuple[float, bool]]
"""(position, token) → log-probability, and whether it is the likeliest token there."""

MOST_ROWS = 1024  # that share one prefix which is read once
KEPT = 4  # tokens of prefixes in memory, in batches
POSITIONS_AT_ONCE = 256  # whose scores, [N, V], are in memory together


@dataclass(frozen=True)
class Scored:
    """Log-probability of a continuation in nats, and whether greedy decoding gives it."""

    log_probability: float
    greedy: bool


@dataclass(frozen=True)
class _Part:
    """Part of a sequence, `length` tokens from `first` on, as a row of a batch."""

    tokens: Sequence[int]
    first: int
    wanted: Wanted


@dataclass(frozen=True)
class _Kept:
    """A sequence whose first `shared` tokens are cached in row `place` of an Inference."""

    prefix: Any
    place: int
    shared: int
    row: int


class Scorer:
    """Computes log-probabilities of continuations, in nats, with a model's emitted Inference.

    make: (rows, positions) → an Inference. most_tokens: tokens in one batch, with padding.
    """

    def __init__(
        self, make: Callable[[int, int], Any], device: torch.device, most_tokens: int
    ) -> None:
        self.make, self.device, self.most_tokens = make, device, most_tokens

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], progress: Progress
    ) -> list[Scored]:
        """Return log P(continuation | context) of (context, continuation) pairs of token ids.

        Neither is empty, and together they fit the model's context. Pairs that differ only in
        the last token are processed as one sequence.
        """
        read: dict[tuple[int, ...], dict[int, set[int]]] = {}
        for context, continuation in pairs:
            sequence = (*context, *continuation)
            wanted = read.setdefault(sequence[:-1], {})
            for at in range(len(context), len(sequence)):
                wanted.setdefault(at - 1, set()).add(sequence[at])
        sequences = list(read)
        found = self._read(sequences, list(read.values()), progress)
        number = {sequence: row for row, sequence in enumerate(sequences)}
        scored = []
        for context, continuation in pairs:
            sequence = (*context, *continuation)
            places = found[number[sequence[:-1]]]
            each = [places[at - 1, sequence[at]] for at in range(len(context), len(sequence))]
            scored.append(Scored(sum(value for value, _ in each), all(best for _, best in each)))
        return scored

    def _read(
        self,
        sequences: Sequence[tuple[int, ...]],
        wanted: Sequence[Wanted],
        progress: Progress,
    ) -> list[Found]:
        """Return for each sequence (position, token) → (log-probability, whether it is argmax)."""
        found: list[Found] = [{} for _ in sequences]
        done = 0
        for wave in waves(group_by_prefix(sequences, MOST_ROWS), KEPT * self.most_tokens):
            kept = self._read_prefixes(wave, sequences, wanted, found)
            self._read_rest(kept, sequences, wanted, found)
            done += sum(len(group.rows) for group in wave)
            progress(done, len(sequences))
        return found

    def _read_prefixes(
        self,
        groups: Sequence[PrefixGroup],
        sequences: Sequence[tuple[int, ...]],
        wanted: Sequence[Wanted],
        found: Sequence[Found],
    ) -> list[_Kept]:
        """Process each group's prefix; return the cached sequences with tokens left to process."""
        kept = []
        for batch in batches([group.shared for group in groups], self.most_tokens):
            some = [groups[number] for number in batch]
            parts, own = [], []
            for group in some:
                at = {
                    position: set[int]().union(
                        *(wanted[row].get(position, ()) for row in group.rows)
                    )
                    for position in {p for row in group.rows for p in wanted[row]}
                    if position < group.shared
                }
                parts.append(_Part(sequences[group.rows[0]][: group.shared], 0, at))
                own.append({})
            prefix = self.make(len(some), max(group.shared for group in some))
            self._scores(prefix.read, parts, own)
            for number, group in enumerate(some):
                for row in group.rows:
                    found[row].update(own[number])
                if not group.is_single:
                    kept += [_Kept(prefix, number, group.shared, row) for row in group.rows]
        return kept

    def _read_rest(
        self,
        kept: Sequence[_Kept],
        sequences: Sequence[tuple[int, ...]],
        wanted: Sequence[Wanted],
        found: Sequence[Found],
    ) -> None:
        """Process the tokens after the prefixes, with rows of many groups in one batch."""
        rest = [len(sequences[one.row]) - one.shared for one in kept]
        for batch in batches(rest, self.most_tokens):
            some = [kept[number] for number in batch]
            parts = [
                _Part(sequences[one.row][one.shared :], one.shared, wanted[one.row]) for one in some
            ]
            inference = self.make(len(some), max(len(sequences[one.row]) for one in some))
            for prefix in {id(one.prefix): one.prefix for one in some}.values():
                at = [number for number, one in enumerate(some) if one.prefix is prefix]
                rows = [some[number].place for number in at]
                length = max(some[number].shared for number in at)
                inference.begin_as(prefix, self._ids(at), self._ids(rows), length)
            first = self._ids([one.shared for one in some])

            def extend(tokens: Tensor, *places: Tensor, of=inference, first=first) -> Tensor:
                return of.extend(tokens, first, *places)

            self._scores(extend, parts, [found[one.row] for one in some])

    def _ids(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _scores(
        self,
        read: Callable[..., Tensor],
        parts: Sequence[_Part],
        found: Sequence[Found],
    ) -> None:
        """Process one batch and record the wanted log-probabilities in `found`."""
        longest = max(len(part.tokens) for part in parts)
        padded = [[*part.tokens, *[0] * (longest - len(part.tokens))] for part in parts]
        places = [
            (row, position)
            for row, part in enumerate(parts)
            for position in sorted(part.wanted)
            if part.first <= position < part.first + len(part.tokens)
        ]
        columns = [position - parts[row].first for row, position in places]
        scores = read(
            torch.tensor(padded, device=self.device),
            self._ids([len(part.tokens) - 1 for part in parts]),
            self._ids([row for row, _ in places]),
            self._ids(columns),
        )
        for begin in range(0, len(places), POSITIONS_AT_ONCE):
            some = places[begin : begin + POSITIONS_AT_ONCE]
            log_probabilities = scores[begin : begin + len(some)].float().log_softmax(-1)
            best = log_probabilities.argmax(-1)
            asked = [
                (number, row, position, token)
                for number, (row, position) in enumerate(some)
                for token in sorted(parts[row].wanted[position])
            ]
            numbers = self._ids([one[0] for one in asked])
            tokens = self._ids([one[3] for one in asked])
            values = log_probabilities[numbers, tokens].tolist()
            likeliest = (best[numbers] == tokens).tolist()
            for (_, row, position, token), value, is_best in zip(
                asked, values, likeliest, strict=True
            ):
                found[row][position, token] = (value, is_best)
