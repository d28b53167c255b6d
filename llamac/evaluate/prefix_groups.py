"""Grouping of token sequences by common prefixes, each of which is processed once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

OVERHEAD = 8
"""Tokens that a group must save to be worth reading its prefix separately."""


SLACK, ENOUGH = 1.05, 8
"""Tokens with padding over those without, once a batch holds 1/ENOUGH of what it may."""


@dataclass(frozen=True)
class PrefixGroup:
    """Sequences that share their first `shared` tokens; a single one shares all its tokens.

    rows: numbers of the sequences, in lexicographic order.
    """

    shared: int
    rows: tuple[int, ...]

    @property
    def is_single(self) -> bool:
        return len(self.rows) == 1


def group_by_prefix(sequences: Sequence[Sequence[int]], most_rows: int) -> list[PrefixGroup]:
    """Divide distinct sequences into groups so that reading each shared prefix once saves most.

    Each sequence keeps at least one token of its own. A group has at most `most_rows` rows; larger
    ones are cut, and read their prefix once a part. Sorted sequences that share a prefix stand
    together, so the candidates form a tree: each node is a maximal run of sequences with its
    shortest common prefix. A node is taken whole if it saves more than its children do.
    """
    order: list[int] = sorted(range(len(sequences)), key=lambda row: tuple(sequences[row]))
    common = [
        min(_common(sequences[a], sequences[b]), len(sequences[a]) - 1, len(sequences[b]) - 1)
        for a, b in itertools.pairwise(order)
    ]
    found: list[tuple[int, int, int]] = []  # (begin, end, shared) over `order`
    _divide(common, len(order), found)
    return [
        _group(shared, order[at : min(at + most_rows, end)], sequences)
        for begin, end, shared in found
        for at in range(begin, end, most_rows)
    ]


def _group(shared: int, rows: Sequence[int], sequences: Sequence[Sequence[int]]) -> PrefixGroup:
    single = len(rows) == 1
    return PrefixGroup(len(sequences[rows[0]]) if single else shared, tuple(rows))


def _divide(common: Sequence[int], count: int, found: list[tuple[int, int, int]]) -> None:
    """Append the chosen runs. Scans the tree bottom-up with a stack, so depth is no limit."""
    # A finished node: (begin, end, saved, runs that save it). An open one: (shared, children).
    stack: list[tuple[int, list[tuple[int, int, int, list[tuple[int, int, int]]]]]] = []

    def close(shared: int, children: list) -> tuple[int, int, int, list[tuple[int, int, int]]]:
        begin, end = children[0][0], children[-1][1]
        apart = sum(child[2] for child in children)
        whole = shared * (end - begin - 1) - OVERHEAD
        if whole > apart:
            return begin, end, whole, [(begin, end, shared)]
        return begin, end, apart, [run for child in children for run in child[3]]

    for row in range(count):
        node = (row, row + 1, 0, [(row, row + 1, 0)])
        ahead = common[row] if row + 1 < count else -1
        while stack and stack[-1][0] > ahead:
            shared, children = stack.pop()
            node = close(shared, [*children, node])
        if stack and stack[-1][0] == ahead:
            stack[-1][1].append(node)
        elif ahead >= 0:
            stack.append((ahead, [node]))
        else:
            found.extend(node[3])


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of two sequences' common prefix."""
    return next(
        (at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def batches(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Yield numbers of sequences, longest first, in batches of up to `most_tokens` with padding.

    A batch that is large enough ends where padding would grow beyond SLACK.
    """
    batch: list[int] = []
    real = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        padded = lengths[batch[0] if batch else row] * (len(batch) + 1)
        loose = real > most_tokens // ENOUGH and padded > SLACK * (real + lengths[row])
        if batch and (loose or padded > most_tokens):
            yield batch
            batch, real = [], 0
        batch.append(row)
        real += lengths[row]
    if batch:
        yield batch


def waves(groups: Iterable[PrefixGroup], most_tokens: int) -> Iterator[list[PrefixGroup]]:
    """Yield groups of about one length whose prefixes are kept together: up to `most_tokens`."""
    wave: list[PrefixGroup] = []
    cached_tokens = 0
    for group in sorted(groups, key=lambda one: -one.shared):
        more = 0 if group.is_single else group.shared
        if wave and cached_tokens + more > most_tokens:
            yield wave
            wave, cached_tokens = [], 0
        wave.append(group)
        cached_tokens += more
    if wave:
        yield wave
