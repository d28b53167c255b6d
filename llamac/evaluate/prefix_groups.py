"""Group token sequences by common prefixes, so that each prefix is processed once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

OVERHEAD = 8
"""Tokens that a group must save, by processing its prefix separately, before this pays off."""


SLACK, ENOUGH = 1.05, 8
"""Maximum ratio of padded to real tokens in a batch that is at least 1/ENOUGH full."""


@dataclass(frozen=True)
class PrefixGroup:
    """Sequences with a common prefix of `shared` tokens; for a single sequence, its length.

    rows: indices of the sequences, in lexicographic order.
    """

    shared: int
    rows: tuple[int, ...]

    @property
    def is_single(self) -> bool:
        """Return whether the group has one sequence."""
        return len(self.rows) == 1


def group_by_prefix(sequences: Sequence[Sequence[int]], max_rows: int) -> list[PrefixGroup]:
    """Partition distinct sequences into the groups with common prefixes that save most tokens.

    Each sequence keeps at least one token after the common prefix. Groups of more than `max_rows`
    sequences are split, and each part processes the prefix.
    Sorted sequences with a common prefix are adjacent, so the candidate groups form a tree: a node
    is a maximal run of sequences with a common prefix of some length. A node becomes a group if it
    saves more tokens than its children do.
    """
    order: list[int] = sorted(range(len(sequences)), key=lambda row: tuple(sequences[row]))
    common = [
        min(_common(sequences[a], sequences[b]), len(sequences[a]) - 1, len(sequences[b]) - 1)
        for a, b in itertools.pairwise(order)
    ]
    runs: list[tuple[int, int, int]] = []  # (begin, end, shared) over `order`
    _divide(common, len(order), runs)
    return [
        _group(shared, order[at : min(at + max_rows, end)], sequences)
        for begin, end, shared in runs
        for at in range(begin, end, max_rows)
    ]


def _group(shared: int, rows: Sequence[int], sequences: Sequence[Sequence[int]]) -> PrefixGroup:
    single = len(rows) == 1
    return PrefixGroup(len(sequences[rows[0]]) if single else shared, tuple(rows))


def _divide(common: Sequence[int], count: int, runs: list[tuple[int, int, int]]) -> None:
    """Append the chosen groups to `runs`, scanning the tree bottom-up without recursion."""
    # A finished node: (begin, end, saved, runs that save it). An open one: (shared, children).
    stack: list[tuple[int, list[tuple[int, int, int, list[tuple[int, int, int]]]]]] = []

    def close(shared: int, children: list) -> tuple[int, int, int, list[tuple[int, int, int]]]:
        begin, end = children[0][0], children[-1][1]
        saved_by_children = sum(child[2] for child in children)
        saved = shared * (end - begin - 1) - OVERHEAD
        if saved > saved_by_children:
            return begin, end, saved, [(begin, end, shared)]
        return begin, end, saved_by_children, [run for child in children for run in child[3]]

    for row in range(count):
        node = (row, row + 1, 0, [(row, row + 1, 0)])
        next_common = common[row] if row + 1 < count else -1
        while stack and stack[-1][0] > next_common:
            shared, children = stack.pop()
            node = close(shared, [*children, node])
        if stack and stack[-1][0] == next_common:
            stack[-1][1].append(node)
        elif next_common >= 0:
            stack.append((next_common, [node]))
        else:
            runs.extend(node[3])


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of two sequences' common prefix."""
    return next(
        (at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield batches of sequence indices, longest first, with at most `max_tokens` padded tokens.

    A batch that is at least 1/ENOUGH full ends where padding would exceed SLACK. A sequence of more
    than `max_tokens` is a batch of its own.
    """
    batch: list[int] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        padded = lengths[batch[0] if batch else row] * (len(batch) + 1)
        too_padded = tokens > max_tokens // ENOUGH and padded > SLACK * (tokens + lengths[row])
        if batch and (too_padded or padded > max_tokens):
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += lengths[row]
    if batch:
        yield batch


def waves(groups: Iterable[PrefixGroup], max_tokens: int) -> Iterator[list[PrefixGroup]]:
    """Yield lists of groups whose prefixes are cached at the same time, longest prefixes first.

    max_tokens: maximum number of cached tokens of a list, unless one prefix is longer. Groups of
    one sequence cache none.
    """
    wave: list[PrefixGroup] = []
    cached_tokens = 0
    for group in sorted(groups, key=lambda group: -group.shared):
        prefix_tokens = 0 if group.is_single else group.shared
        if wave and cached_tokens + prefix_tokens > max_tokens:
            yield wave
            wave, cached_tokens = [], 0
        wave.append(group)
        cached_tokens += prefix_tokens
    if wave:
        yield wave
