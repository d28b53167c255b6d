"""A step laid out in time: it takes what was predicted, and no lane does two things at once."""

from __future__ import annotations

from collections import defaultdict

import pytest

from llamac.passes.footprint import held
from llamac.plan.breakdown import ops, regions, transfers
from llamac.plan.predict import StepModel
from llamac.plan.step import Step
from llamac.plan.target import device_for, setting_for
from llamac.spec import load_spec
from tests.plan.steps import LAYOUTS, SMALL, planned

layouts = pytest.mark.parametrize("name", LAYOUTS)


@layouts
def test_a_step_takes_the_predicted_seconds_term_by_term(name: str) -> None:
    prediction, program = planned(name)
    step, seconds = Step(prediction, program), prediction.seconds
    assert step.seconds == pytest.approx(seconds.total, rel=1e-9)

    spent = defaultdict(float)
    for act in step.acts:
        if act.runs:
            waits = sum(span.exposed for span in step.run(act).waits)
            spent["tensor"] += waits
            spent["compute"] += act.end - act.begin - waits
        elif act.lane == "compute":
            of_stages = act.name == "neighbour stage"
            term = {"bubble": "bubble", "update": "optimizer"}.get(act.kind, "data")
            spent["pipeline" if of_stages else term] += act.end - act.begin
    for term, predicted in vars(seconds).items():
        assert spent[term] == pytest.approx(predicted, rel=1e-6, abs=1e-12), term


@layouts
def test_a_lane_does_one_thing_at_a_time(name: str) -> None:
    free = defaultdict(float)
    for act in Step(*planned(name)).acts:
        assert act.begin >= free[act.lane] - 1e-9
        assert act.end >= act.begin
        free[act.lane] = act.end
    assert max(free.values()) == free["compute"]


@pytest.mark.parametrize("name", ["one rank", "micro-batches", "FSDP over tensor ranks", "1F1B"])
def test_ops_are_fitted_to_the_prediction_by_nothing(name: str) -> None:
    # Where a framework starts kernels as fast as they run, ops take what the clock says.
    step = Step(*planned(name))
    for key, one in step.played.items():
        assert one.seconds == pytest.approx(step._plain[key].seconds, rel=1e-9)


def test_every_layer_runs_on_one_stage() -> None:
    prediction, program = planned("interleaved 1F1B")
    found = []
    for rank in range(4):
        step = Step(prediction, program, rank)
        found += [region for chunk in range(step.virtual) for region in step.chunk(chunk)]
    assert sorted(layer for _, layer in found if layer is not None) == list(range(8))
    assert [name for name, layer in found if layer is None] == ["embed", "head"]


def test_regions_and_ops_sum_to_the_same() -> None:
    step = Step(*planned("FSDP over tensor ranks"))
    whole = sum(one.total for one in regions(step))
    waits = sum(one.count * one.waits for one in regions(step))
    assert sum(one.total for one in ops(step)) == pytest.approx(whole - waits, rel=1e-9)
    terms = step.prediction.seconds
    assert whole == pytest.approx(terms.compute + terms.tensor, rel=1e-9)
    flops = sum(one.count * one.flops for one in ops(step))
    ranks = step.prediction.setting.spec.parallel.ranks
    assert flops * ranks == pytest.approx(step.prediction.hardware_flops, rel=1e-9)
    assert "arithmetic" in {one.bound for one in ops(step) if one.op == "linear"}


def test_transfers_sum_to_what_a_rank_sends() -> None:
    step = Step(*planned("FSDP over tensor ranks"))
    sent = defaultdict(float)
    for one in transfers(step):
        sent[one.axis] += one.count * one.nbytes
        assert one.link == ("within a node" if one.axis == "tp" else "between nodes")
    predicted = step.prediction.communication
    assert sent["tp"] == pytest.approx(predicted["tp"], rel=1e-9)
    assert sent["dp_shard"] == pytest.approx(predicted["dp_shard"], rel=0.05)


@pytest.mark.parametrize(
    ("name", "axes"), [("HSDP", {"dp_shard", "dp_replicate"}), ("DDP", {"dp_replicate"})]
)
def test_copies_of_the_state_sum_their_gradients(name: str, axes: set[str]) -> None:
    step = Step(*planned(name))
    predicted = step.prediction.communication
    assert {axis for axis, nbytes in predicted.items() if nbytes} == axes
    found = [one for one in transfers(step) if one.axis == "dp_replicate"]
    assert {(one.kind, one.where) for one in found} == {("all_reduce", "gradients")}
    mesh = step.prediction.setting.spec.parallel.mesh
    assert {one.ranks for one in found} == {mesh["dp_replicate"]}
    sent = sum(one.count * one.nbytes for one in found)
    # What is not in layers is a sixth of this model; the table has it with a layer's.
    assert sent == pytest.approx(predicted["dp_replicate"], rel=0.2)


def test_a_pipeline_s_first_rank_has_no_head() -> None:
    prediction, program = planned("1F1B")
    assert prediction.per_rank == held(program, 2, first=True, last=False).total


def test_of_uneven_stages_the_fullest_is_told() -> None:
    spec = load_spec("7b", (*SMALL, "model.n_layers=10", "parallel.pipeline=4"))
    setting = setting_for(spec, device_for(spec, "a100-80gb"))
    model = StepModel(setting, setting.compile())
    every = [model._memory(rank).total for rank in range(4)]
    assert model.memory().total == max(every)
    assert every.index(max(every)) not in (0, 3)
