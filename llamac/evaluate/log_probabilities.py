"""Compute log-probabilities of continuations, processing each common prefix once.

`runtime/evaluate/choice_metrics.py` computes metrics from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llamac.evaluate.prefix_groups import PrefixGroup, batches, group_by_prefix, waves

Progress = Callable[[int, int], None]
"""Progress callback, called with (sequences processed, all sequences)."""

Targets = Mapping[int, set[int]]
"""Ids of the tokens to score after a sequence's position, by that position."""

TokenScores = dict[tuple[int, int], tuple[float, bool]]
"""(log-probability in nats, whether it is the most likely token) by (position, token id)."""

MAX_ROWS = 1024  # sequences per cached prefix
CACHED_BATCHES = 4  # tokens of cached prefixes in memory, as a multiple of a batch
POSITIONS_AT_ONCE = 256  # positions whose log-probabilities, fp32 [N, V], are in memory


@dataclass(frozen=True)
class ContinuationScore:
    """Score of a continuation: log-probability in nats, and whether greedy decoding gives it."""

    log_probability: float
    greedy: bool


@dataclass(frozen=True)
class _Segment:
    """A row of a batch: the tokens of a sequence from position `first` on."""

    tokens: Sequence[int]
    first: int
    targets: Targets


@dataclass(frozen=True)
class _CachedRow:
    """Sequence number `row`, whose first `shared` tokens are cached in row `place` of `prefix`."""

    prefix: Any
    place: int
    shared: int
    row: int


class Scorer:
    """Scorer of continuations by a model's emitted Inference.

    make: function of (rows, positions) that returns an Inference with a cache of that size.
    max_tokens: maximum tokens per batch, including padding; one longer sequence is a batch.
    """

    def __init__(
        self, make: Callable[[int, int], Any], device: torch.device, max_tokens: int
    ) -> None:
        self.make, self.device, self.max_tokens = make, device, max_tokens

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], progress: Progress
    ) -> list[ContinuationScore]:
        """Return the score of each (context, continuation) pair of token ids.

        Neither may be empty, and without the last token they must fit into the model's context.
        Pairs that differ only in the last token are processed as one sequence. progress: called
        after every few groups of sequences with a common prefix.
        """
        read: dict[tuple[int, ...], dict[int, set[int]]] = {}
        for context, continuation in pairs:
            sequence = (*context, *continuation)
            targets = read.setdefault(sequence[:-1], {})
            for at in range(len(context), len(sequence)):
                targets.setdefault(at - 1, set()).add(sequence[at])
        sequences = list(read)
        scores = self._read(sequences, list(read.values()), progress)
        number = {sequence: row for row, sequence in enumerate(sequences)}
        results = []
        for context, continuation in pairs:
            sequence = (*context, *continuation)
            places = scores[number[sequence[:-1]]]
            token_scores = [
                places[at - 1, sequence[at]] for at in range(len(context), len(sequence))
            ]
            results.append(
                ContinuationScore(
                    sum(value for value, _ in token_scores), all(best for _, best in token_scores)
                )
            )
        return results

    def _read(
        self,
        sequences: Sequence[tuple[int, ...]],
        targets: Sequence[Targets],
        progress: Progress,
    ) -> list[TokenScores]:
        """Return for each sequence (position, token) → (log-probability, whether it is argmax)."""
        scores: list[TokenScores] = [{} for _ in sequences]
        done = 0
        for wave in waves(group_by_prefix(sequences, MAX_ROWS), CACHED_BATCHES * self.max_tokens):
            cached_rows = self._read_prefixes(wave, sequences, targets, scores)
            self._read_rest(cached_rows, sequences, targets, scores)
            done += sum(len(group.rows) for group in wave)
            progress(done, len(sequences))
        return scores

    def _read_prefixes(
        self,
        groups: Sequence[PrefixGroup],
        sequences: Sequence[tuple[int, ...]],
        targets: Sequence[Targets],
        scores: Sequence[TokenScores],
    ) -> list[_CachedRow]:
        """Process each group's prefix; return the rows that have further tokens to process."""
        cached_rows = []
        for batch in batches([group.shared for group in groups], self.max_tokens):
            batch_groups = [groups[number] for number in batch]
            parts, group_scores = [], []
            for group in batch_groups:
                at = {
                    position: set[int]().union(
                        *(targets[row].get(position, ()) for row in group.rows)
                    )
                    for position in {p for row in group.rows for p in targets[row]}
                    if position < group.shared
                }
                parts.append(_Segment(sequences[group.rows[0]][: group.shared], 0, at))
                group_scores.append({})
            prefix = self.make(len(batch_groups), max(group.shared for group in batch_groups))
            self._scores(prefix.read, parts, group_scores)
            for number, group in enumerate(batch_groups):
                for row in group.rows:
                    scores[row].update(group_scores[number])
                if not group.is_single:
                    cached_rows += [
                        _CachedRow(prefix, number, group.shared, row) for row in group.rows
                    ]
        return cached_rows

    def _read_rest(
        self,
        cached_rows: Sequence[_CachedRow],
        sequences: Sequence[tuple[int, ...]],
        targets: Sequence[Targets],
        scores: Sequence[TokenScores],
    ) -> None:
        """Process the tokens after the prefixes, with the rows of many groups in one batch."""
        rest = [len(sequences[cached.row]) - cached.shared for cached in cached_rows]
        for batch in batches(rest, self.max_tokens):
            batch_rows = [cached_rows[number] for number in batch]
            parts = [
                _Segment(sequences[cached.row][cached.shared :], cached.shared, targets[cached.row])
                for cached in batch_rows
            ]
            inference = self.make(
                len(batch_rows), max(len(sequences[cached.row]) for cached in batch_rows)
            )
            for prefix in {id(cached.prefix): cached.prefix for cached in batch_rows}.values():
                at = [number for number, cached in enumerate(batch_rows) if cached.prefix is prefix]
                rows = [batch_rows[number].place for number in at]
                length = max(batch_rows[number].shared for number in at)
                inference.copy_prefix(prefix, self._ids(at), self._ids(rows), length)
            first = self._ids([cached.shared for cached in batch_rows])

            def extend(tokens: Tensor, *places: Tensor, of=inference, first=first) -> Tensor:
                return of.extend(tokens, first, *places)

            self._scores(extend, parts, [scores[cached.row] for cached in batch_rows])

    def _ids(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _scores(
        self,
        read: Callable[..., Tensor],
        parts: Sequence[_Segment],
        scores: Sequence[TokenScores],
    ) -> None:
        """Process one batch and record the log-probabilities of its targets in `scores`."""
        longest = max(len(part.tokens) for part in parts)
        padded = [[*part.tokens, *[0] * (longest - len(part.tokens))] for part in parts]
        places = [
            (row, position)
            for row, part in enumerate(parts)
            for position in sorted(part.targets)
            if part.first <= position < part.first + len(part.tokens)
        ]
        columns = [position - parts[row].first for row, position in places]
        logits = read(
            torch.tensor(padded, device=self.device),
            self._ids([len(part.tokens) - 1 for part in parts]),
            self._ids([row for row, _ in places]),
            self._ids(columns),
        )
        for begin in range(0, len(places), POSITIONS_AT_ONCE):
            batch_places = places[begin : begin + POSITIONS_AT_ONCE]
            log_probabilities = logits[begin : begin + len(batch_places)].float().log_softmax(-1)
            best = log_probabilities.argmax(-1)
            asked = [
                (number, row, position, token)
                for number, (row, position) in enumerate(batch_places)
                for token in sorted(parts[row].targets[position])
            ]
            numbers = self._ids([query[0] for query in asked])
            tokens = self._ids([query[3] for query in asked])
            values = log_probabilities[numbers, tokens].tolist()
            likeliest = (best[numbers] == tokens).tolist()
            for (_, row, position, token), value, is_best in zip(
                asked, values, likeliest, strict=True
            ):
                scores[row][position, token] = (value, is_best)
