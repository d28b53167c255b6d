"""Ordering of the vertical lines in a gutter to minimise crossings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

from llamac.inspect.drawing.route import APART, Line, Routing, Stop

MAX_PERMUTED = 6  # up to this many lanes, all orders (720) are tried


@dataclass(frozen=True)
class _VerticalSegment:
    lane: int
    top: float
    bottom: float
    net: str


@dataclass(frozen=True)
class _HorizontalSegment:
    """A level part of a line from a lane to the left (-1) or right (1) edge of the gutter."""

    lane: int
    y: float
    side: int
    net: str


@dataclass(frozen=True)
class _LaneGroup:
    """A separate part of a gutter, whose lanes can be ordered independently."""

    top: float
    bottom: float
    order: Sequence[int]


def reduce_crossings(routing: Routing) -> Routing:
    """Return a routing with the lanes of each gutter reordered so that the fewest lines cross.

    A gutter with more than `MAX_PERMUTED` lanes keeps their order.
    """
    groups = [list(_lane_groups(routing.lines, g, lanes)) for g, lanes in enumerate(routing.lanes)]

    def moved(stop: Stop) -> Stop:
        if stop.at != "lane":
            return stop
        group = next(k for k in groups[stop.index] if k.top <= stop.y <= k.bottom)
        return replace(stop, lane=group.order[stop.lane])

    return replace(
        routing,
        lines=tuple(replace(line, stops=tuple(map(moved, line.stops))) for line in routing.lines),
    )


def _lane_groups(lines: Sequence[Line], gutter: int, lanes: int) -> Iterator[_LaneGroup]:
    verticals, horizontals = _segments(lines, gutter)
    pending = sorted(verticals, key=lambda one: one.top)
    while pending:
        bottom = pending[0].bottom
        group = []
        while pending and pending[0].top <= bottom + APART:
            bottom = max(bottom, pending[0].bottom)
            group.append(pending.pop(0))
        top = group[0].top
        inside = [horizontal for horizontal in horizontals if top <= horizontal.y <= bottom]
        yield _LaneGroup(top, bottom, _order(group, inside, lanes))


def _order(
    verticals: Sequence[_VerticalSegment], horizontals: Sequence[_HorizontalSegment], lanes: int
) -> Sequence[int]:
    """Return the new position of each lane."""
    if not 1 < lanes <= MAX_PERMUTED:
        return range(lanes)
    return min(
        permutations(range(lanes)),
        key=lambda order: sum(
            _cross(vertical, horizontal, order)
            for vertical in verticals
            for horizontal in horizontals
        ),
    )


def _segments(
    lines: Sequence[Line], gutter: int
) -> tuple[list[_VerticalSegment], list[_HorizontalSegment]]:
    verticals: dict[_VerticalSegment, None] = {}
    horizontals: dict[_HorizontalSegment, None] = {}
    for line in lines:
        net = line.edge.source
        for before, after in pairwise(line.stops):
            here = [stop for stop in (before, after) if _in(stop, gutter)]
            if len(here) == 2:
                top, bottom = sorted((before.y, after.y))
                verticals[_VerticalSegment(before.lane, top, bottom, net)] = None
            elif here:
                (stop,) = here
                other = after if stop is before else before
                side = 1 if _slot(other) > 2 * gutter else -1
                horizontals[_HorizontalSegment(stop.lane, stop.y, side, net)] = None
    return list(verticals), list(horizontals)


def _in(stop: Stop, gutter: int) -> bool:
    return stop.at == "lane" and stop.index == gutter


def _slot(stop: Stop) -> int:
    return 2 * stop.index + (stop.at != "lane")


def _cross(
    vertical: _VerticalSegment, horizontal: _HorizontalSegment, order: Sequence[int]
) -> bool:
    return (
        vertical.net != horizontal.net
        and vertical.top <= horizontal.y <= vertical.bottom
        and (order[vertical.lane] - order[horizontal.lane]) * horizontal.side > 0
    )
