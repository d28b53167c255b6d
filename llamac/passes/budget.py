"""budget: choose what layers keep, to minimise recomputation under a memory budget.

Layers run one of two variants of a block, each with its own saved set. Those with the higher peak
come first, as a rule: when the backward pass reaches them, what the others kept is free. All pairs
of sets, in either order, and all numbers of layers are tried, so nothing within the limit is
faster. Every pipeline rank has its own numbers: the first keeps most micro-batches alive at once.

Memory is counted as `llamac plan` counts it: parameters, gradients, optimizer state, what layers
keep of all micro-batches in flight, and the peak of the layer or loss at work, recomputation
included. The memory of the process itself and what its allocator loses come on top.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

from llamac.ir.program import Program, Region
from llamac.passes.activation_checkpoint import by_cost, checkpoint
from llamac.passes.cut import Cut, region_seconds
from llamac.passes.footprint import (
    Activations,
    Fresh,
    Sharding,
    activations,
    behind,
    fresh_gradients,
    held,
    in_flight,
    states,
)
from llamac.passes.overlap import headroom_of
from llamac.passes.saved_sets import SavedSet, candidate_sets
from llamac.passes.timing import Clock

LEAN = "_lean"  # what the name of the variant that keeps less ends in


class BudgetError(ValueError):
    """No saved sets stay within the budget; the message says how small it could be."""

    exit_code = 2


@dataclass(frozen=True)
class Limit:
    """Conditions under which a budget is solved.

    nbytes: Bytes that a rank may hold. where: The spec's line that says so.
    sharding, sharers: How many ranks share which state.
    state_bytes: Of the optimizer's state, per parameter.
    micro_batches: Per data-parallel rank per step.
    overlap: Whether collectives will run beside other work, which takes memory.
    """

    nbytes: int
    where: str
    dtype: str
    sharding: Sharding
    sharers: int
    state_bytes: int
    micro_batches: int
    pipeline: int = 1
    virtual: int = 1
    overlap: bool = True


@dataclass(frozen=True)
class Budget:
    """The pass `checkpoint` under `recompute.policy = "budget"`."""

    limit: Limit
    name: str = "checkpoint"

    def apply(self, program: Program) -> Program:
        block = program.regions[program.layers[0]]
        clock = Clock(program.symbols, program.mesh)
        sets = candidate_sets(block, clock)
        plan = cheapest(trial_of(program, sets, self.limit), self.limit)
        program = replace(program, stages=plan.stages)
        early, late = sets[plan.early], sets[plan.late]
        lean = plan.early_layers
        if early.nbytes > late.nbytes:
            early, late, lean = late, early, tuple(not one for one in lean)
        notes = _notes(program, plan, sets, region_seconds(block, clock), self.limit)
        return with_variants(program, [early.names, late.names], lean).with_notes(*notes)


@dataclass(frozen=True)
class Decided:
    """Give a program the saved sets that were solved for another of the same ops, as `verify` does.

    kept: names of the values that each variant keeps. Layers are split evenly between the variants.
    """

    kept: Sequence[Sequence[str]]
    name: str = "checkpoint"

    def apply(self, program: Program) -> Program:
        count = len(program.layers)
        lean = count // 2 if len(self.kept) > 1 else 0
        kept = [frozenset(self.kept[0]), frozenset(self.kept[-1])]
        return with_variants(program, kept, (True,) * lean + (False,) * (count - lean))


def with_variants(
    program: Program, kept: Sequence[frozenset[str]], lean: Sequence[bool]
) -> Program:
    """Make layers keep kept[0] where `lean` is true and kept[1] elsewhere.

    The other regions keep everything: there is one of each, and the loss is followed by its
    backward pass at once.
    """
    name = program.layers[0]
    block = program.regions[name]
    for region in program.regions.values():
        if region.backward is not None and region is not block:
            program = program.with_region(checkpoint(region, by_cost("none")))
    both = any(lean) and not all(lean)
    names = {True: f"{name}{LEAN}" if both else name, False: name}
    variants = {names[one]: _variant(block, names[one], kept[not one]) for one in set(lean)}
    regions: dict[str, Region] = {}
    for key, region in program.regions.items():
        regions |= dict(sorted(variants.items(), reverse=True)) if key == name else {key: region}
    return replace(program, regions=regions, layers=tuple(names[one] for one in lean))


def _variant(block: Region, name: str, kept: frozenset[str]) -> Region:
    return replace(checkpoint(block, lambda value: value.name in kept), name=name)


# -- the choice ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """The saved sets to choose from, and what each pipeline rank needs besides.

    Per pipeline rank: its number of layers, bytes of its state and logits, micro-batches in flight,
    and seconds of the work that is never recomputed.
    """

    sets: Sequence[SavedSet]
    found: Activations
    names: Sequence[str]  # of the sets' regions
    stages: tuple[int, ...]
    layers: tuple[int, ...]
    state: tuple[float, ...]
    flying: tuple[float, ...]
    seconds: tuple[float, ...]
    fresh: Fresh

    def nbytes(self, rank: int, early: int, late: int, first: int) -> float:
        """Peak bytes of a rank whose `first` layers keep set `early` and others `late`."""
        rest = self.layers[rank] - first
        runs = [(self.names[early], first)] * (first > 0) + [(self.names[late], rest)] * (rest > 0)
        last = rank == len(self.layers) - 1
        return self.state[rank] + behind(self.found, runs, self.flying[rank], last, self.fresh)


@dataclass(frozen=True)
class Plan:
    """A choice of two saved sets and of the layers that keep each.

    early, late: indices of the sets. first: number of layers that keep `early`, per pipeline rank.
    early_layers: whether a layer keeps `early`. nbytes: of the fullest rank. seconds: of the
    slowest rank. again: seconds of recomputation on all ranks.
    """

    early: int
    late: int
    first: tuple[int, ...]
    early_layers: tuple[bool, ...]
    stages: tuple[int, ...]
    nbytes: float
    seconds: float
    again: float


def trial_of(program: Program, sets: Sequence[SavedSet], limit: Limit) -> Trial:
    whole = with_variants(program, [frozenset()] * 2, (False,) * len(program.layers))
    name = program.layers[0]
    block, names = program.regions[name], [f"{name}:{number}" for number in range(len(sets))]
    variants = {own: _variant(block, own, one.names) for own, one in zip(names, sets, strict=True)}
    trial = replace(whole, regions={**whole.regions, **variants}, layers=tuple(names))
    found = activations(trial)
    if limit.overlap:
        room = _headroom(block, program.symbols)
        found = replace(found, peak={key: peak + room for key, peak in found.peak.items()})

    pipeline, count = limit.pipeline, len(program.layers)
    stages = Cut(pipeline * limit.virtual).apply(program).stages
    layers = [sum((stages or (count,))[rank::pipeline]) for rank in range(pipeline)]
    clock = Clock(program.symbols, program.mesh)
    each, before, after = (
        region_seconds(program.regions[r], clock) for r in (name, "embed", "head")
    )
    state, flying, fresh = [], [], Fresh()
    for rank, own in enumerate(layers):
        last = rank == pipeline - 1
        mine = held(program, own, rank == 0, last)
        parts = states(
            mine,
            limit.dtype,
            limit.sharding,
            limit.sharers,
            limit.micro_batches,
            whole_stage=pipeline > 1,
            state_bytes=limit.state_bytes,
        )
        fresh = fresh_gradients(program, mine, limit.dtype, limit.sharding, limit.micro_batches)
        state.append(sum(parts.values()) + (found.logits if last else 0.0))
        one = pipeline == 1
        flying.append(1 if one else in_flight(rank, pipeline, limit.virtual, limit.micro_batches))
    seconds = [
        own * each + before * (rank == 0) + after * (rank == pipeline - 1)
        for rank, own in enumerate(layers)
    ]
    return Trial(
        sets=sets,
        found=found,
        names=names,
        stages=stages,
        layers=tuple(layers),
        state=tuple(state),
        flying=tuple(flying),
        seconds=tuple(seconds),
        fresh=fresh,
    )


def _headroom(block: Region, symbols: Mapping[str, int]) -> int:
    """Return the bytes that `overlap` may add to the peak."""
    assert block.backward is not None
    return max(headroom_of(one.graph, symbols) for one in (block.forward, block.backward))


def cheapest(trial: Trial, limit: Limit) -> Plan:
    """Return the plan within the limit whose slowest rank is fastest.

    Ties go to least recomputation in all, then to one variant rather than two, then to fewest
    bytes. Raises BudgetError.
    """
    plans = [plan for plan in _plans(trial, limit.nbytes) if plan is not None]
    if not plans:
        raise BudgetError(_impossible(trial, limit))
    return min(plans, key=lambda p: (p.seconds, p.again, p.early != p.late, p.nbytes))


def _plans(trial: Trial, most: float) -> Iterator[Plan | None]:
    """Yield, for each pair of sets, the fastest number of layers per rank within `most` bytes."""
    for early in range(len(trial.sets)):
        for late in range(len(trial.sets)):
            yield _plan(trial, early, late, most)


def _plan(trial: Trial, early: int, late: int, most: float) -> Plan | None:
    one, other = trial.sets[early].seconds, trial.sets[late].seconds
    first, nbytes, again, slowest = [], 0.0, 0.0, 0.0
    for rank, count in enumerate(trial.layers):
        sizes = partial(trial.nbytes, rank, early, late)
        if early == late:
            number = 0 if sizes(0) <= most else None
        else:
            number = _first_within(sizes, count, most, fewest=one >= other)
        if number is None:
            return None
        size = sizes(number)
        own = number * one + (count - number) * other
        slowest, again = max(slowest, trial.seconds[rank] + own), again + own
        nbytes = max(nbytes, size)
        first.append(number)
    layers = _spread(trial, first)
    return Plan(early, late, tuple(first), layers, trial.stages, nbytes, slowest, again)


Sizes = Callable[[int], float]
"""Bytes of a rank by how many of its layers keep the first set. From 1 to all but one of them,
the maximum of linear functions (`footprint.behind`), hence convex; the two ends, where a rank has
layers of one set only, stand apart."""


def _first_within(sizes: Sizes, count: int, most: float, fewest: bool) -> int | None:
    """The least number, else the greatest, from 0 to `count`, whose size is within `most`."""
    ends = (0, count) if fewest else (count, 0)
    if sizes(ends[0]) <= most:
        return ends[0]
    lowest = _lowest(sizes, count)
    if lowest is not None and sizes(lowest) <= most:
        if fewest:
            return 1 + bisect_left(range(1, lowest + 1), True, key=lambda n: sizes(n) <= most)
        beyond = bisect_left(range(lowest, count), True, key=lambda n: sizes(n) > most)
        return lowest + beyond - 1
    return ends[1] if sizes(ends[1]) <= most else None


def _lowest(sizes: Sizes, count: int) -> int | None:
    """The number between the ends whose size is least; None if there is none between."""
    if count < 2:
        return None
    return 1 + bisect_left(range(1, count - 1), True, key=lambda n: sizes(n + 1) >= sizes(n))


def _spread(trial: Trial, first: Sequence[int]) -> tuple[bool, ...]:
    """Return, for each layer of the model, whether it is one of the first of its rank."""
    left, early = list(first), []
    for stage, count in enumerate(trial.stages or trial.layers):
        rank = stage % len(trial.layers)
        own = min(count, left[rank])
        left[rank] -= own
        early += [True] * own + [False] * (count - own)
    return tuple(early)


# -- what is said ----------------------------------------------------------------------------------


def _impossible(trial: Trial, limit: Limit) -> str:
    least = min(
        max(
            _least(partial(trial.nbytes, rank, early, late), count)
            for rank, count in enumerate(trial.layers)
        )
        for early in range(len(trial.sets))
        for late in range(len(trial.sets))
    )
    state = max(trial.state)
    return (
        f"{limit.where}: a budget of {_gigabytes(limit.nbytes)} cannot be met: a rank holds "
        f"{_gigabytes(least)} at least, {_gigabytes(state)} of it parameters, gradients, "
        f'optimizer state and logits. Set budget = "{_gigabytes(least)}" or more, or lower '
        "batch.micro_batch, or share more over ranks in [parallel]"
    )


def _least(sizes: Sizes, count: int) -> float:
    between = _lowest(sizes, count)
    return min(sizes(n) for n in (0, count, between) if n is not None)


def _gigabytes(nbytes: float) -> str:
    """Rounded up to what can be written as a budget: 60GB, 31.25GB, 420MB."""
    scale, unit = (10**9, "GB") if nbytes >= 1e9 else (10**6, "MB")
    hundredths = -(-ceil(nbytes) * 100 // scale)
    return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".") + unit


def _notes(
    program: Program, plan: Plan, sets: Sequence[SavedSet], once: float, limit: Limit
) -> Iterator[str]:
    """once: seconds of a layer that computes nothing again."""
    nodes = program.regions[program.layers[0]].forward.graph.nodes
    layers, first = len(plan.early_layers), sum(plan.first)
    for number, count in ((plan.early, first), (plan.late, layers - first)):
        if count:
            one = sets[number]
            names = [node.name for node in nodes if node.name in one.names]
            yield (
                f"checkpoint: {count} of {layers} layers keep {_gigabytes(one.nbytes)} "
                f"and compute {one.seconds / once:.1%} of their work again; kept: "
                f"{', '.join(['the input', *names])}"
            )
    yield (
        f"checkpoint: {_gigabytes(plan.nbytes)} on the fullest rank, of a budget of "
        f"{_gigabytes(limit.nbytes)}"
    )
