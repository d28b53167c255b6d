"""budget: what layers keep is chosen so that a rank stays within so many bytes, computing least
again. The sets it chooses from are those that `checkpoint` could write; nothing better exists."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamac.ir.graph import is_op, op_of, producer, recomputed_ops
from llamac.ir.program import Program
from llamac.ir.verifier import verify
from llamac.passes.activation_checkpoint import checkpoint
from llamac.passes.analysis.liveness import peak_bytes, saved_bytes
from llamac.passes.analysis.saved_sets import all_saved_sets, candidate_sets
from llamac.passes.analysis.timing import TimingModel
from llamac.passes.budget import (
    BudgetError,
    CandidateCosts,
    FixedSavedSets,
    Limit,
    Plan,
    _first_within,
    _min_size,
    candidate_costs,
    fastest_plan,
)
from llamac.passes.cut import Cut
from llamac.passes.pass_list import compile_spec, saved_sets, stages
from llamac.plan.device.device import load_device
from llamac.plan.predict import predict
from llamac.plan.target import setting_for
from llamac.spec import Spec, SpecError
from tests.compare import SHIPPED, shipped, shrunk

SHARED = (
    ("65b", "parallel.tensor=8"),
    ("gpt3-block", "parallel.tensor=4"),
    ("tiny", "parallel.context=2"),
)
BLOCKS = (*((name,) for name in SHIPPED), *SHARED)


def differentiated(*spec: str) -> Program:
    *_, last = stages(shipped(*spec), stop_after="differentiate")
    return last.program


def clock_of(program: Program) -> TimingModel:
    return TimingModel(program.symbols, program.mesh)


def budgeted(name: str, budget: str, *changes: str) -> Spec:
    return shipped(name, 'recompute.policy="budget"', f'recompute.budget="{budget}"', *changes)


# -- what may be kept ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("spec", BLOCKS, ids=" ".join)
def test_a_set_costs_what_the_graphs_it_leads_to_cost(spec: tuple[str, ...]) -> None:
    program = differentiated(*spec)
    block, cost, symbols = program.regions["block"], clock_of(program), program.symbols
    forward = {node.name: node for node in block.forward.graph.nodes}
    found = sorted(all_saved_sets(block, cost), key=lambda one: sorted(one.names))
    for one in random.Random(0).sample(found, 12):
        region = checkpoint(block, lambda value, names=one.names: value.name in names)
        assert region.backward is not None
        peak = max(
            peak_bytes(region.forward.graph, region.saved, symbols),
            peak_bytes(region.backward.graph, (), symbols),
        )
        assert one.nbytes == saved_bytes(region, symbols)
        assert one.transient == peak - one.nbytes
        recompute_seconds = recomputed_ops(region.backward.graph)
        assert one.seconds == pytest.approx(
            sum(cost.seconds(forward[node.name]) for node in recompute_seconds), rel=1e-12
        )


@pytest.mark.slow
@pytest.mark.parametrize("spec", BLOCKS, ids=" ".join)
def test_what_is_left_out_is_no_better_than_what_is_kept(spec: tuple[str, ...]) -> None:
    """A set is left out for one that keeps no more and computes no more again; its peak is at most
    higher by what it keeps less, which even a single layer gains."""
    program = differentiated(*spec)
    block, cost = program.regions["block"], clock_of(program)
    best = candidate_sets(block, cost)
    for one in all_saved_sets(block, cost):
        assert any(
            other.nbytes <= one.nbytes
            and other.seconds <= one.seconds * (1 + 1e-9)
            and other.transient + other.nbytes <= one.transient + one.nbytes
            for other in best
        ), one


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_no_view_is_kept(name: str) -> None:
    block = differentiated(name).regions["block"]
    program = differentiated(name)
    nodes = {node.name: node for node in block.forward.graph.nodes}
    for one in candidate_sets(block, clock_of(program)):
        for value in one.names:
            source, _ = producer(nodes[value])
            assert is_op(source)
            assert op_of(source).cost != "view"


# -- the choice ------------------------------------------------------------------------------------

LIMIT = Limit(
    nbytes=0,
    where="spec.toml:1",
    dtype="fp32",
    sharding="none",
    fsdp_ranks=1,
    state_bytes=8,
    micro_batches=4,
)


@cache
def costs(pipeline: int = 1, virtual: int = 1) -> tuple[CandidateCosts, Limit]:
    program = differentiated("tiny", "model.n_layers=8")
    sets = candidate_sets(program.regions["block"], clock_of(program))
    limit = Limit(**{**vars(LIMIT), "pipeline": pipeline, "virtual": virtual})
    return candidate_costs(program, sets, limit), limit


def chosen(nbytes: float, pipeline: int = 1, virtual: int = 1) -> Plan:
    known, limit = costs(pipeline, virtual)
    return fastest_plan(known, Limit(**{**vars(limit), "nbytes": math.floor(nbytes)}))


@cache
def bounds(pipeline: int = 1, virtual: int = 1) -> tuple[int, int]:
    """The least budget that can be met, and one under which nothing is computed again."""
    with pytest.raises(BudgetError) as caught:
        chosen(1, pipeline, virtual)
    (least,) = re.findall(r"at least ([\d.]+)MB", str(caught.value))
    return round(float(least) * 1e6), math.ceil(chosen(1e15, pipeline, virtual).nbytes)


@pytest.mark.slow
@pytest.mark.parametrize(("pipeline", "virtual"), [(1, 1), (2, 1), (4, 1), (2, 2)])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_more_memory_is_never_slower(pipeline: int, virtual: int, data: st.DataObject) -> None:
    least, most = bounds(pipeline, virtual)
    budget = st.integers(least, most + 10**6)
    less, more = sorted(data.draw(st.tuples(budget, budget)))
    tight, wide = (chosen(nbytes, pipeline, virtual) for nbytes in (less, more))
    assert wide.seconds <= tight.seconds
    assert tight.nbytes <= less
    assert wide.nbytes <= more


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_nothing_within_the_budget_computes_less_again(data: st.DataObject) -> None:
    """Against all pairs of all sets and all numbers of layers, by formula."""
    least, most = bounds()
    nbytes = data.draw(st.integers(least, most))
    keep, recompute_seconds, top, state, loss = everything()
    layers = 8
    best = math.inf
    for first in range(layers + 1):
        alive = first * keep[:, None] + (layers - first) * keep[None, :]
        high = alive + loss
        if first < layers:
            high = np.maximum(high, alive + top[None, :])
        if first > 0:
            high = np.maximum(high, first * keep[:, None] + top[:, None])
        seconds = first * recompute_seconds[:, None] + (layers - first) * recompute_seconds[None, :]
        best = min(best, float(np.min(np.where(state + high <= nbytes, seconds, math.inf))))
    assert chosen(nbytes).recompute_seconds == pytest.approx(best, rel=1e-9, abs=1e-15)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_number_of_layers_is_found_as_if_all_were_tried(data: st.DataObject) -> None:
    known, _ = costs(2)
    early, late = data.draw(st.tuples(*[st.integers(0, len(known.sets) - 1)] * 2))
    rank, fewest = data.draw(st.integers(0, 1)), data.draw(st.booleans())
    count = data.draw(st.integers(1, 12))
    known = replace(known, layers=(count, count))
    sizes = [known.nbytes(rank, early, late, number) for number in range(count + 1)]
    most = data.draw(st.sampled_from(sizes)) + data.draw(st.sampled_from([-1.0, 0.0, 1.0]))
    fitting = [number for number, size in enumerate(sizes) if size <= most]
    wanted = (fitting[0] if fewest else fitting[-1]) if fitting else None
    assert _first_within(sizes.__getitem__, count, most, fewest) == wanted
    assert _min_size(sizes.__getitem__, count) == min(sizes)


@pytest.mark.parametrize("count", [1_000, 10_000])
@pytest.mark.parametrize("fewest", [True, False])
def test_the_search_grows_with_the_logarithm_of_the_layers(count: int, fewest: bool) -> None:
    asked: list[int] = []

    def sizes(number: int) -> float:
        asked.append(number)
        return max(5.0 * count - 3 * number, 2.0 * number)

    _first_within(sizes, count, 2.5 * count, fewest)
    assert len(asked) < 60


@cache
def everything() -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Of every set: bytes kept, seconds again, bytes of the peak beyond; state, and the loss's."""
    program = differentiated("tiny", "model.n_layers=8")
    found = list(all_saved_sets(program.regions["block"], clock_of(program)))
    columns = [(one.nbytes, one.seconds, one.transient) for one in found]
    keep, recompute_seconds, top = np.array(columns).T
    known, _ = costs()
    return keep, recompute_seconds, top, known.state[0], known.activations.head_peak


@pytest.mark.slow
def test_under_a_wide_budget_nothing_is_computed_again() -> None:
    program = compile_spec(budgeted("tiny", "100GB"))
    assert set(program.layers) == {"block"}
    for region in program.regions.values():
        assert region.backward is None or not [
            node for node in recomputed_ops(region.backward.graph) if op_of(node).cost != "view"
        ]


def test_two_variants_at_most_and_the_lean_one_comes_first() -> None:
    program = compile_spec(budgeted("7b", "126GB"))
    assert [name for name, _ in program.layer_runs] == ["block_lean", "block"]
    lean, rich = (
        saved_bytes(program.regions[name], program.symbols) for name in ("block_lean", "block")
    )
    assert lean < rich


@pytest.mark.slow
def test_the_first_pipeline_rank_keeps_least() -> None:
    """It has most micro-batches in flight."""
    least, most = bounds(4)
    plan = chosen((least + most) / 2, 4)
    assert plan.first[0] > plan.first[-1]
    assert sum(plan.early_layers) == sum(plan.first)


TWO_STAGES = ("model.n_layers=8", "batch.micro_batch=2", "parallel.pipeline=2")


@pytest.mark.slow
def test_a_cut_made_for_the_budget_stays() -> None:
    program = compile_spec(budgeted("tiny", "200MB", *TWO_STAGES))
    assert program.stages == costs(2)[0].stages
    other = replace(program, stages=(1, 7))
    assert Cut(stages=2).apply(other).stages == (1, 7)


# -- the promise -----------------------------------------------------------------------------------

LAYOUTS = {
    "7b": ("125GB",),
    "65b": ("42GB", "parallel.tensor=8", "parallel.data_shard=256"),
    "llama2-70b": ("30GB", "parallel.tensor=8", "parallel.pipeline=4", "parallel.data_shard=8"),
    "13b": (
        "33GB",
        "batch.micro_batch=1",
        "parallel.pipeline=4",
        "parallel.pipeline_virtual=2",
        "parallel.tensor=2",
    ),
    "gpt3-block": ("2GB", "parallel.tensor=4"),
    "tiny": ("170MB", "parallel.context=2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_plan_of_the_scheduled_program_is_within_the_budget(name: str) -> None:
    budget, *layout = LAYOUTS[name]
    spec = budgeted(name, budget, *layout)
    program = compile_spec(spec)
    verify(program)
    memory = predict(setting_for(spec, load_device("a100-80gb")), program).memory
    assert spec.recompute.budget is not None
    held = memory.total - memory.overhead
    assert 0.85 * spec.recompute.budget < held <= spec.recompute.budget


@pytest.mark.slow
def test_a_budget_that_cannot_be_met_says_where_it_stands_and_what_could_be() -> None:
    spec = budgeted("7b", "20GB")
    with pytest.raises(BudgetError) as caught:
        compile_spec(spec)
    said = str(caught.value)
    assert said.startswith(f"{spec.where('recompute.budget')}: a budget of 20GB cannot be met")
    (least,) = re.findall(r'Set budget = "([^"]+)"', said)
    compile_spec(budgeted("7b", least))
    with pytest.raises(BudgetError):
        compile_spec(budgeted("7b", f"{float(least[:-2]) - 0.01:.2f}GB"))


def test_a_budget_goes_with_its_policy() -> None:
    with pytest.raises(SpecError, match="`budget` has no effect"):
        shipped("tiny", 'recompute.budget="1GB"')
    with pytest.raises(SpecError, match="needs `budget`, the memory limit"):
        shipped("tiny", 'recompute.policy="budget"')


@pytest.mark.slow
def test_a_decision_holds_for_a_twin() -> None:
    spec = budgeted("7b", "126GB")
    kept = saved_sets(spec)
    assert len(kept) == 2
    *_, last = stages(shrunk("7b"), stop_after="differentiate")
    program = FixedSavedSets(kept).apply(last.program)
    verify(program)
    assert program.layers == ("block_lean", "block")
    assert tuple(program.regions[name].saved for name in program.layers) == kept
