"""budget: chooses the layers' saved sets to minimise recomputation under a memory budget.

Layers run one of two variants of a block, each with its own saved set. The variant with the higher
peak usually comes first: when the backward pass reaches it, the other layers' activations are
already freed. All pairs of sets, in either order, and all layer counts are tried, so the result is
optimal under this model. Each pipeline rank has its own counts, as the first rank keeps the most
micro-batches in flight.

Memory is counted as in `llamac plan`: parameters, gradients, optimizer state, saved activations of
all micro-batches in flight, and the peak of the running layer or loss, recomputation included. The
process's own memory and allocator fragmentation are not included.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

from llamac.ir.program import Program, Region
from llamac.passes.activation_checkpoint import by_cost, checkpoint
from llamac.passes.analysis.peak_memory import (
    Activations,
    Fresh,
    Sharding,
    activations,
    fresh_gradients,
    micro_batches_in_flight,
    peak_activation_bytes,
    stage_parameters,
    states,
)
from llamac.passes.analysis.saved_sets import SavedSet, candidate_sets
from llamac.passes.analysis.timing import Clock
from llamac.passes.cut import Cut, region_seconds
from llamac.passes.overlap import headroom_of

LEAN = "_lean"  # suffix of the variant that saves less


class BudgetError(ValueError):
    """No choice of saved sets fits the budget; the message gives the smallest feasible budget."""

    exit_code = 2


@dataclass(frozen=True)
class Limit:
    """Inputs of the budget solver.

    nbytes: memory budget of one rank in bytes. where: the spec's line that sets it.
    dtype: compute dtype, `bf16` or `fp32`.
    sharding, sharers: which training state is sharded, and over how many ranks.
    state_bytes: bytes of optimizer state per parameter.
    micro_batches: micro-batches per data-parallel rank per step; 1 if each reduces gradients.
    pipeline, virtual: pipeline ranks, and stages per rank.
    overlap: whether collectives overlap other work, which takes memory.
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
    """Pass `checkpoint` under `recompute.policy = "budget"`."""

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
    """Pass that applies saved sets solved for another program with the same ops (used by `verify`).

    saved: names of the values that each variant saves. Layers are split evenly between variants.
    """

    saved: Sequence[Sequence[str]]
    name: str = "checkpoint"

    def apply(self, program: Program) -> Program:
        count = len(program.layers)
        lean = count // 2 if len(self.saved) > 1 else 0
        saved = [frozenset(self.saved[0]), frozenset(self.saved[-1])]
        return with_variants(program, saved, (True,) * lean + (False,) * (count - lean))


def with_variants(
    program: Program, saved: Sequence[frozenset[str]], lean: Sequence[bool]
) -> Program:
    """Return the program with saved set saved[0] in layers where `lean` is true, else saved[1].

    Other regions save everything: each runs once per micro-batch, and the loss's backward pass
    follows at once.
    """
    name = program.layers[0]
    block = program.regions[name]
    for region in program.regions.values():
        if region.backward is not None and region is not block:
            program = program.with_region(checkpoint(region, by_cost("none")))
    both = any(lean) and not all(lean)
    names = {True: f"{name}{LEAN}" if both else name, False: name}
    variants = {names[one]: _variant(block, names[one], saved[not one]) for one in set(lean)}
    regions: dict[str, Region] = {}
    for key, region in program.regions.items():
        regions |= dict(sorted(variants.items(), reverse=True)) if key == name else {key: region}
    return replace(program, regions=regions, layers=tuple(names[one] for one in lean))


def _variant(block: Region, name: str, saved: frozenset[str]) -> Region:
    return replace(checkpoint(block, lambda value: value.name in saved), name=name)


# -- the choice ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """Costs from which the solver chooses.

    sets, names: candidate saved sets, and the key of each in `found`, the activation bytes.
    stages: layers of each pipeline stage. fresh: gradients allocated during the step.
    Per pipeline rank: `layers`, number of layers; `state`, bytes of training state and logits;
    `in_flight`, micro-batches in flight; `seconds`, time per micro-batch without recomputation.
    """

    sets: Sequence[SavedSet]
    found: Activations
    names: Sequence[str]
    stages: tuple[int, ...]
    layers: tuple[int, ...]
    state: tuple[float, ...]
    in_flight: tuple[float, ...]
    seconds: tuple[float, ...]
    fresh: Fresh

    def nbytes(self, rank: int, early: int, late: int, first: int) -> float:
        """Return a pipeline rank's peak bytes for a choice of saved sets.

        early, late: indices in `sets`. first: number of layers, from the first, that save `early`.
        """
        rest = self.layers[rank] - first
        runs = [(self.names[early], first)] * (first > 0) + [(self.names[late], rest)] * (rest > 0)
        last = rank == len(self.layers) - 1
        return self.state[rank] + peak_activation_bytes(
            self.found, runs, self.in_flight[rank], last, self.fresh
        )


@dataclass(frozen=True)
class Plan:
    """A choice of two saved sets and of the layers that use each.

    early, late: indices in `Trial.sets`. first: layers with set `early`, per pipeline rank.
    early_layers: for each layer, whether it uses `early`. nbytes: peak bytes of the fullest rank.
    seconds: time per micro-batch of the slowest rank. recompute_seconds: seconds of recomputation
    per micro-batch, summed over ranks.
    """

    early: int
    late: int
    first: tuple[int, ...]
    early_layers: tuple[bool, ...]
    stages: tuple[int, ...]
    nbytes: float
    seconds: float
    recompute_seconds: float


def trial_of(program: Program, sets: Sequence[SavedSet], limit: Limit) -> Trial:
    """Return the solver's costs for a differentiated Program whose layers are all alike.

    sets: candidate saved sets of a layer.
    """
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
    state, in_flight, fresh = [], [], Fresh()
    for rank, own in enumerate(layers):
        last = rank == pipeline - 1
        mine = stage_parameters(program, own, rank == 0, last)
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
        schedule = (pipeline, limit.virtual, limit.micro_batches)
        in_flight.append(micro_batches_in_flight(rank, *schedule) if pipeline > 1 else 1)
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
        in_flight=tuple(in_flight),
        seconds=tuple(seconds),
        fresh=fresh,
    )


def _headroom(block: Region, symbols: Mapping[str, int]) -> int:
    """Return the bytes by which the pass `overlap` may raise the peak."""
    assert block.backward is not None
    return max(headroom_of(one.graph, symbols) for one in (block.forward, block.backward))


def cheapest(trial: Trial, limit: Limit) -> Plan:
    """Return the plan within the limit that minimises the time of the slowest rank.

    Ties are broken by least total recomputation, then by one variant rather than two, then by
    fewest bytes. Raises BudgetError if no plan fits.
    """
    plans = [plan for plan in _plans(trial, limit.nbytes) if plan is not None]
    if not plans:
        raise BudgetError(_impossible(trial, limit))
    return min(plans, key=lambda p: (p.seconds, p.recompute_seconds, p.early != p.late, p.nbytes))


def _plans(trial: Trial, most: float) -> Iterator[Plan | None]:
    """Yield for each pair of sets the fastest plan within `most` bytes per rank, or None."""
    for early in range(len(trial.sets)):
        for late in range(len(trial.sets)):
            yield _plan(trial, early, late, most)


def _plan(trial: Trial, early: int, late: int, most: float) -> Plan | None:
    one, other = trial.sets[early].seconds, trial.sets[late].seconds
    first, nbytes, recompute_seconds, slowest = [], 0.0, 0.0, 0.0
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
        slowest, recompute_seconds = (
            max(slowest, trial.seconds[rank] + own),
            recompute_seconds + own,
        )
        nbytes = max(nbytes, size)
        first.append(number)
    layers = _spread(trial, first)
    return Plan(early, late, tuple(first), layers, trial.stages, nbytes, slowest, recompute_seconds)


Sizes = Callable[[int], float]
"""Bytes of a rank as a function of the number of its layers that save the first set. From 1 to all
but one layer it is a maximum of linear functions (`peak_activation_bytes`), hence convex; the two
ends, where all layers of a rank save the same set, are separate cases."""


def _first_within(sizes: Sizes, count: int, most: float, fewest: bool) -> int | None:
    """Return a number of layers from 0 to `count` whose size is at most `most`, or None.

    fewest: return the smallest such number, else the largest.
    """
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
    """Return the number in 1 … count - 1 with the least size; None if that range is empty."""
    if count < 2:
        return None
    return 1 + bisect_left(range(1, count - 1), True, key=lambda n: sizes(n + 1) >= sizes(n))


def _spread(trial: Trial, first: Sequence[int]) -> tuple[bool, ...]:
    """Return for each layer of the model whether it is among the first layers of its rank."""
    left, early = list(first), []
    for stage, count in enumerate(trial.stages or trial.layers):
        rank = stage % len(trial.layers)
        own = min(count, left[rank])
        left[rank] -= own
        early += [True] * own + [False] * (count - own)
    return tuple(early)


# -- notes and errors ------------------------------------------------------------------------------


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
        f"{limit.where}: a budget of {_gigabytes(limit.nbytes)} cannot be met: a rank needs "
        f"at least {_gigabytes(least)}, of which {_gigabytes(state)} are parameters, gradients, "
        f'optimizer state and logits. Set budget = "{_gigabytes(least)}" or more, lower '
        "batch.micro_batch, or shard over more ranks in [parallel]"
    )


def _least(sizes: Sizes, count: int) -> float:
    between = _lowest(sizes, count)
    return min(sizes(n) for n in (0, count, between) if n is not None)


def _gigabytes(nbytes: float) -> str:
    """Format bytes as the spec writes a budget, rounded up: 60GB, 31.25GB, 420MB."""
    scale, unit = (10**9, "GB") if nbytes >= 1e9 else (10**6, "MB")
    hundredths = -(-ceil(nbytes) * 100 // scale)
    return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".") + unit


def _notes(
    program: Program, plan: Plan, sets: Sequence[SavedSet], once: float, limit: Limit
) -> Iterator[str]:
    """Yield notes about the plan. once: seconds of a layer without recomputation."""
    nodes = program.regions[program.layers[0]].forward.graph.nodes
    layers, first = len(plan.early_layers), sum(plan.first)
    for number, count in ((plan.early, first), (plan.late, layers - first)):
        if count:
            one = sets[number]
            names = [node.name for node in nodes if node.name in one.names]
            yield (
                f"checkpoint: {count} of {layers} layers save {_gigabytes(one.nbytes)} "
                f"each and recompute {one.seconds / once:.1%} of their work; saved: "
                f"{', '.join(['the input', *names])}"
            )
    yield (
        f"checkpoint: {_gigabytes(plan.nbytes)} on the fullest rank; the budget is "
        f"{_gigabytes(limit.nbytes)}"
    )
