"""budget: chooses the layers' saved sets to minimise recomputation under a memory budget.

Layers run one of two variants of a block, each with its own saved set. All pairs of sets, in either
order, and all numbers of layers are tried, so the result is optimal under this model. The variant
with the higher peak usually comes first: when the backward pass reaches it, the activations of the
other layers are already freed. Each pipeline rank has its own numbers of layers, since the first
rank saves the activations of the most micro-batches.

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
from llamac.passes.activation_checkpoint import checkpoint, policy_predicate
from llamac.passes.analysis.peak_memory import (
    Activations,
    Sharding,
    StepGradients,
    activations,
    micro_batches_in_flight,
    peak_activation_bytes,
    stage_parameters,
    step_gradients,
    training_state,
)
from llamac.passes.analysis.saved_sets import SavedSet, candidate_sets
from llamac.passes.analysis.timing import TimingModel
from llamac.passes.cut import Cut, region_seconds
from llamac.passes.overlap import default_headroom

LEAN = "_lean"  # suffix of the variant that saves less


class BudgetError(ValueError):
    """No choice of saved sets fits the budget. The message gives the smallest feasible budget."""

    exit_code = 2


@dataclass(frozen=True)
class Limit:
    """Memory budget of one rank, and the settings on which its memory depends.

    nbytes: the budget in bytes. where: line of the spec that sets it, for messages.
    dtype: compute dtype, `bf16` or `fp32`.
    sharding: training state that is sharded. fsdp_ranks: number of ranks over which it is.
    state_bytes: bytes of optimizer state per parameter.
    micro_batches: micro-batches per data-parallel rank per step; 1 if each reduces its gradients.
    pipeline, virtual: pipeline ranks, and stages per rank.
    overlap: whether the pass `overlap` runs, which may raise peak memory.
    """

    nbytes: int
    where: str
    dtype: str
    sharding: Sharding
    fsdp_ranks: int
    state_bytes: int
    micro_batches: int
    pipeline: int = 1
    virtual: int = 1
    overlap: bool = True


@dataclass(frozen=True)
class Budget:
    """Pass `checkpoint` for `recompute.policy = "budget"`: chooses saved sets and stages."""

    limit: Limit
    name: str = "checkpoint"

    def apply(self, program: Program) -> Program:
        block = program.regions[program.layers[0]]
        timing = TimingModel(program.symbols, program.mesh)
        sets = candidate_sets(block, timing)
        plan = fastest_plan(candidate_costs(program, sets, self.limit), self.limit)
        program = replace(program, stages=plan.stages)
        early, late = sets[plan.early], sets[plan.late]
        uses_first = plan.early_layers
        if early.nbytes > late.nbytes:
            early, late, uses_first = late, early, tuple(not one for one in uses_first)
        notes = _notes(program, plan, sets, region_seconds(block, timing), self.limit)
        return with_variants(program, [early.names, late.names], uses_first).with_notes(*notes)


@dataclass(frozen=True)
class FixedSavedSets:
    """Pass `checkpoint` with saved sets that were solved for another Program with the same ops.

    `verify` uses it for the twin. With two variants, the first half of the layers runs the first.

    saved: names of the values that each variant saves, one or two variants.
    """

    saved: Sequence[Sequence[str]]
    name: str = "checkpoint"

    def apply(self, program: Program) -> Program:
        count = len(program.layers)
        first = count // 2 if len(self.saved) > 1 else 0
        saved = [frozenset(self.saved[0]), frozenset(self.saved[-1])]
        return with_variants(program, saved, (True,) * first + (False,) * (count - first))


def with_variants(
    program: Program, saved: Sequence[frozenset[str]], uses_first: Sequence[bool]
) -> Program:
    """Return the program with saved sets applied to its layers, which must all run one region.

    A layer saves the values named in saved[0] where `uses_first` is true, else those in saved[1].
    If both occur, the former run a new region `block_lean`. Other regions save every value that
    their backward pass reads, since each runs once per micro-batch.
    """
    name = program.layers[0]
    block = program.regions[name]
    for region in program.regions.values():
        if region.backward is not None and region is not block:
            program = program.with_region(checkpoint(region, policy_predicate("none")))
    both = any(uses_first) and not all(uses_first)
    names = {True: f"{name}{LEAN}" if both else name, False: name}
    variants = {names[one]: _variant(block, names[one], saved[not one]) for one in set(uses_first)}
    regions: dict[str, Region] = {}
    for key, region in program.regions.items():
        regions |= dict(sorted(variants.items(), reverse=True)) if key == name else {key: region}
    return replace(program, regions=regions, layers=tuple(names[one] for one in uses_first))


def _variant(block: Region, name: str, saved: frozenset[str]) -> Region:
    return replace(checkpoint(block, lambda value: value.name in saved), name=name)


# -- the choice ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CandidateCosts:
    """Memory and time of the candidate saved sets, from which the solver chooses.

    sets: candidate saved sets of a layer. names: key of each in `activations`.
    activations: activation bytes of one micro-batch, by candidate, with `overlap`'s headroom.
    stages: number of layers of each pipeline stage; () if there is one stage.
    layers: number of layers of each pipeline rank.
    state: bytes of training state and logits of each pipeline rank.
    in_flight: micro-batches in flight on each pipeline rank.
    seconds: time per micro-batch of each pipeline rank, without recomputation.
    gradients: bytes of gradients that are allocated during the step, as by `step_gradients`.
    """

    sets: Sequence[SavedSet]
    activations: Activations
    names: Sequence[str]
    stages: tuple[int, ...]
    layers: tuple[int, ...]
    state: tuple[float, ...]
    in_flight: tuple[float, ...]
    seconds: tuple[float, ...]
    gradients: StepGradients

    def nbytes(self, rank: int, early: int, late: int, first: int) -> float:
        """Return a pipeline rank's peak bytes for a choice of two saved sets.

        early, late: indices in `sets`. first: how many of the rank's layers, counted from its
        first, use `early`; the others use `late`.
        """
        rest = self.layers[rank] - first
        runs = [(self.names[early], first)] * (first > 0) + [(self.names[late], rest)] * (rest > 0)
        last = rank == len(self.layers) - 1
        return self.state[rank] + peak_activation_bytes(
            self.activations, runs, self.in_flight[rank], last, self.gradients
        )


@dataclass(frozen=True)
class Plan:
    """A choice of two saved sets and of the layers that use each.

    early, late: indices in `CandidateCosts.sets`.
    first: number of layers that use `early`, for each pipeline rank.
    early_layers: for each layer of the model, whether it uses `early`.
    stages: number of layers of each pipeline stage; () if there is one stage.
    nbytes: highest peak bytes of a rank. seconds: time per micro-batch of the slowest rank.
    recompute_seconds: recomputation time per micro-batch, summed over ranks.
    """

    early: int
    late: int
    first: tuple[int, ...]
    early_layers: tuple[bool, ...]
    stages: tuple[int, ...]
    nbytes: float
    seconds: float
    recompute_seconds: float


def candidate_costs(program: Program, sets: Sequence[SavedSet], limit: Limit) -> CandidateCosts:
    """Return the costs of candidate saved sets for a differentiated Program.

    All layers must run the same region. sets: candidates for a layer. limit: `nbytes` is not read.
    """
    whole = with_variants(program, [frozenset()] * 2, (False,) * len(program.layers))
    name = program.layers[0]
    block, names = program.regions[name], [f"{name}:{number}" for number in range(len(sets))]
    variants = {own: _variant(block, own, one.names) for own, one in zip(names, sets, strict=True)}
    costs = replace(whole, regions={**whole.regions, **variants}, layers=tuple(names))
    saved = activations(costs)
    if limit.overlap:
        room = _headroom(block, program.symbols)
        saved = replace(saved, peak={key: peak + room for key, peak in saved.peak.items()})

    pipeline, count = limit.pipeline, len(program.layers)
    stages = Cut(pipeline * limit.virtual).apply(program).stages
    layers = [sum((stages or (count,))[rank::pipeline]) for rank in range(pipeline)]
    timing = TimingModel(program.symbols, program.mesh)
    each, before, after = (
        region_seconds(program.regions[r], timing) for r in (name, "embed", "head")
    )
    state, in_flight, gradients = [], [], StepGradients()
    for rank, own in enumerate(layers):
        last = rank == pipeline - 1
        mine = stage_parameters(program, own, rank == 0, last)
        parts = training_state(
            mine,
            limit.dtype,
            limit.sharding,
            limit.fsdp_ranks,
            limit.micro_batches,
            whole_stage=pipeline > 1,
            state_bytes=limit.state_bytes,
        )
        gradients = step_gradients(program, mine, limit.dtype, limit.sharding, limit.micro_batches)
        state.append(sum(parts.values()) + (saved.logits if last else 0.0))
        schedule = (pipeline, limit.virtual, limit.micro_batches)
        in_flight.append(micro_batches_in_flight(rank, *schedule) if pipeline > 1 else 1)
    seconds = [
        own * each + before * (rank == 0) + after * (rank == pipeline - 1)
        for rank, own in enumerate(layers)
    ]
    return CandidateCosts(
        sets=sets,
        activations=saved,
        names=names,
        stages=stages,
        layers=tuple(layers),
        state=tuple(state),
        in_flight=tuple(in_flight),
        seconds=tuple(seconds),
        gradients=gradients,
    )


def _headroom(block: Region, symbols: Mapping[str, int]) -> int:
    """Return the bytes by which the pass `overlap` may raise the peak."""
    assert block.backward is not None
    return max(default_headroom(one.graph, symbols) for one in (block.forward, block.backward))


def fastest_plan(costs: CandidateCosts, limit: Limit) -> Plan:
    """Return the plan within the limit that minimises the time of the slowest rank.

    Ties are broken by the least total recomputation, then by one variant rather than two, then by
    the fewest bytes. Raises BudgetError if no plan fits.
    """
    plans = [plan for plan in _plans(costs, limit.nbytes) if plan is not None]
    if not plans:
        raise BudgetError(_impossible(costs, limit))
    return min(plans, key=lambda p: (p.seconds, p.recompute_seconds, p.early != p.late, p.nbytes))


def _plans(costs: CandidateCosts, max_bytes: float) -> Iterator[Plan | None]:
    """Yield for each pair of sets the fastest plan within `max_bytes` per rank, or None."""
    for early in range(len(costs.sets)):
        for late in range(len(costs.sets)):
            yield _plan(costs, early, late, max_bytes)


def _plan(costs: CandidateCosts, early: int, late: int, max_bytes: float) -> Plan | None:
    one, other = costs.sets[early].seconds, costs.sets[late].seconds
    first, nbytes, recompute_seconds, slowest = [], 0.0, 0.0, 0.0
    for rank, count in enumerate(costs.layers):
        sizes = partial(costs.nbytes, rank, early, late)
        if early == late:
            number = 0 if sizes(0) <= max_bytes else None
        else:
            number = _first_within(sizes, count, max_bytes, fewest=one >= other)
        if number is None:
            return None
        size = sizes(number)
        own = number * one + (count - number) * other
        slowest, recompute_seconds = (
            max(slowest, costs.seconds[rank] + own),
            recompute_seconds + own,
        )
        nbytes = max(nbytes, size)
        first.append(number)
    layers = _spread(costs, first)
    return Plan(early, late, tuple(first), layers, costs.stages, nbytes, slowest, recompute_seconds)


Sizes = Callable[[int], float]
"""Bytes of a rank as a function of the number of its layers that use the set `early`. From 1 to all
but one layer it is a maximum of linear functions (`peak_activation_bytes`), hence convex; the two
ends, where all layers of a rank save the same set, are separate cases."""


def _first_within(sizes: Sizes, count: int, max_bytes: float, fewest: bool) -> int | None:
    """Return a number of layers from 0 to `count` whose size is at most `max_bytes`.

    fewest: return the smallest such number, else the largest.
    """
    ends = (0, count) if fewest else (count, 0)
    if sizes(ends[0]) <= max_bytes:
        return ends[0]
    lowest = _lowest(sizes, count)
    if lowest is not None and sizes(lowest) <= max_bytes:
        if fewest:
            return 1 + bisect_left(range(1, lowest + 1), True, key=lambda n: sizes(n) <= max_bytes)
        beyond = bisect_left(range(lowest, count), True, key=lambda n: sizes(n) > max_bytes)
        return lowest + beyond - 1
    return ends[1] if sizes(ends[1]) <= max_bytes else None


def _lowest(sizes: Sizes, count: int) -> int | None:
    """Return the number in 1 … count - 1 with the least size; None if that range is empty."""
    if count < 2:
        return None
    return 1 + bisect_left(range(1, count - 1), True, key=lambda n: sizes(n + 1) >= sizes(n))


def _spread(costs: CandidateCosts, first: Sequence[int]) -> tuple[bool, ...]:
    """Return for each layer of the model whether it is among the first layers of its rank."""
    left, early = list(first), []
    for stage, count in enumerate(costs.stages or costs.layers):
        rank = stage % len(costs.layers)
        own = min(count, left[rank])
        left[rank] -= own
        early += [True] * own + [False] * (count - own)
    return tuple(early)


# -- notes and errors ------------------------------------------------------------------------------


def _impossible(costs: CandidateCosts, limit: Limit) -> str:
    least = min(
        max(
            _min_size(partial(costs.nbytes, rank, early, late), count)
            for rank, count in enumerate(costs.layers)
        )
        for early in range(len(costs.sets))
        for late in range(len(costs.sets))
    )
    state = max(costs.state)
    return (
        f"{limit.where}: a budget of {_gigabytes(limit.nbytes)} cannot be met: a rank needs "
        f"at least {_gigabytes(least)}, of which {_gigabytes(state)} are parameters, gradients, "
        f'optimizer state and logits. Set budget = "{_gigabytes(least)}" or more, lower '
        "batch.micro_batch, or shard over more ranks in [parallel]"
    )


def _min_size(sizes: Sizes, count: int) -> float:
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
