"""Ordering of the vertical lines in a gutter to minimise crossings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

from llamac.inspect.drawing.route import APART, Line, Routed, Stop

MOST = 6  # up to this many lanes, all orders (720) are tried


@dataclass(frozen=True)
class _Upright:
    lane: int
    top: float
    bottom: float
    net: str


@dataclass(frozen=True)
class _Stub:
    """A level part of a line from a lane to the left (-1) or right (1) edge of the gutter."""

    lane: int
    y: float
    side: int
    net: str


@dataclass(frozen=True)
class _Knot:
    """A separate part of a gutter, whose lanes can be ordered independently."""

    top: float
    bottom: float
    order: Sequence[int]


def untangle(routed: Routed) -> Routed:
    """Reorder the lanes of lines so that fewer lines cross."""
    knots = [list(_knots(routed.lines, g, lanes)) for g, lanes in enumerate(routed.lanes)]

    def moved(stop: Stop) -> Stop:
        if stop.at != "lane":
            return stop
        knot = next(k for k in knots[stop.index] if k.top <= stop.y <= k.bottom)
        return replace(stop, lane=knot.order[stop.lane])

    return replace(
        routed,
        lines=tuple(replace(line, stops=tuple(map(moved, line.stops))) for line in routed.lines),
    )


def _knots(lines: Sequence[Line], gutter: int, lanes: int) -> Iterator[_Knot]:
    uprights, stubs = _stretches(lines, gutter)
    waiting = sorted(uprights, key=lambda one: one.top)
    while waiting:
        bottom = waiting[0].bottom
        knot = []
        while waiting and waiting[0].top <= bottom + APART:
            bottom = max(bottom, waiting[0].bottom)
            knot.append(waiting.pop(0))
        top = knot[0].top
        inside = [stub for stub in stubs if top <= stub.y <= bottom]
        yield _Knot(top, bottom, _order(knot, inside, lanes))


def _order(uprights: Sequence[_Upright], stubs: Sequence[_Stub], lanes: int) -> Sequence[int]:
    """Return the new position of each lane."""
    if not 1 < lanes <= MOST:
        return range(lanes)
    return min(
        permutations(range(lanes)),
        key=lambda order: sum(
            _cross(upright, stub, order) for upright in uprights for stub in stubs
        ),
    )


def _stretches(lines: Sequence[Line], gutter: int) -> tuple[list[_Upright], list[_Stub]]:
    uprights: dict[_Upright, None] = {}
    stubs: dict[_Stub, None] = {}
    for line in lines:
        net = line.edge.source
        for before, after in pairwise(line.stops):
            here = [stop for stop in (before, after) if _in(stop, gutter)]
            if len(here) == 2:
                top, bottom = sorted((before.y, after.y))
                uprights[_Upright(before.lane, top, bottom, net)] = None
            elif here:
                (stop,) = here
                other = after if stop is before else before
                side = 1 if _slot(other) > 2 * gutter else -1
                stubs[_Stub(stop.lane, stop.y, side, net)] = None
    return list(uprights), list(stubs)


def _in(stop: Stop, gutter: int) -> bool:
    return stop.at == "lane" and stop.index == gutter


def _slot(stop: Stop) -> int:
    return 2 * stop.index + (stop.at != "lane")


def _cross(upright: _Upright, stub: _Stub, order: Sequence[int]) -> bool:
    return (
        upright.net != stub.net
        and upright.top <= stub.y <= upright.bottom
        and (order[upright.lane] - order[stub.lane]) * stub.side > 0
    )
