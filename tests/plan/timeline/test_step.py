"""A step laid out in time: it takes what was predicted, and no lane does two things at once."""

from __future__ import annotations

from collections import defaultdict

import pytest

from llamac.passes.analysis.peak_memory import stage_parameters
from llamac.plan.cost.step_model import StepModel
from llamac.plan.predict import predict
from llamac.plan.target import device_for, setting_for
from llamac.plan.timeline.breakdown import ops, regions, transfer_costs
from llamac.plan.timeline.step import StepTimeline
from llamac.spec import load_spec
from tests.plan.steps import LAYOUTS, SMALL, planned

layouts = pytest.mark.parametrize("name", LAYOUTS)


@pytest.mark.slow
@layouts
def test_a_step_takes_the_predicted_seconds_term_by_term(name: str) -> None:
    prediction, program = planned(name)
    step, seconds = StepTimeline(prediction, program), prediction.seconds
    assert step.seconds == pytest.approx(seconds.total, rel=1e-9)

    spent = defaultdict(float)
    for event in step.events:
        if event.runs:
            waits = sum(span.exposed for span in step.run(event).waits)
            spent["tensor"] += waits
            spent["compute"] += event.end - event.begin - waits
        elif event.lane == "compute":
            of_stages = event.name == "neighbour stage"
            term = {"bubble": "bubble", "update": "optimizer"}.get(event.kind, "data")
            spent["pipeline" if of_stages else term] += event.end - event.begin
    for term, predicted in vars(seconds).items():
        assert spent[term] == pytest.approx(predicted, rel=1e-6, abs=1e-12), term


@pytest.mark.slow
@layouts
def test_a_lane_does_one_thing_at_a_time(name: str) -> None:
    free = defaultdict(float)
    for event in StepTimeline(*planned(name)).events:
        assert event.begin >= free[event.lane] - 1e-9
        assert event.end >= event.begin
        free[event.lane] = event.end
    assert max(free.values()) == free["compute"]


@pytest.mark.slow
@layouts
def test_a_rank_others_wait_for_less_takes_as_long(name: str) -> None:
    prediction, program = planned(name)
    for rank in range(prediction.setting.spec.parallel.pipeline):
        step = StepTimeline(prediction, program, rank)
        assert step.seconds == pytest.approx(prediction.seconds.total, rel=1e-3)


@pytest.mark.parametrize("framework", ["eager", "megatron"])
def test_the_step_of_another_framework_takes_what_is_predicted(framework: str) -> None:
    spec = load_spec("7b", (*SMALL, "parallel.tensor=4", "parallel.pipeline=2"))
    setting = setting_for(spec, device_for(spec, "a100-80gb"), framework, "zero1")
    program = setting.compile()
    prediction = predict(setting, program)
    step = StepTimeline(prediction, program)
    assert step.seconds == pytest.approx(prediction.seconds.total, rel=1e-9)
    assert prediction.seconds.tensor > 0


def test_every_layer_runs_on_one_stage() -> None:
    prediction, program = planned("interleaved 1F1B")
    found = []
    for rank in range(4):
        step = StepTimeline(prediction, program, rank)
        found += [region for chunk in range(step.virtual) for region in step.chunk(chunk)]
    assert sorted(layer for _, layer in found if layer is not None) == list(range(8))
    assert [name for name, layer in found if layer is None] == ["embed", "head"]


def test_regions_and_ops_sum_to_the_same() -> None:
    step = StepTimeline(*planned("FSDP over tensor ranks"))
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
    step = StepTimeline(*planned("FSDP over tensor ranks"))
    sent = defaultdict(float)
    for one in transfer_costs(step):
        sent[one.axis] += one.count * one.nbytes
        assert one.link == ("within a node" if one.axis == "tp" else "between nodes")
    predicted = step.prediction.communication
    assert sent["tp"] == pytest.approx(predicted["tp"], rel=1e-9)
    assert sent["dp_shard"] == pytest.approx(predicted["dp_shard"], rel=1e-9)


@pytest.mark.parametrize(
    ("name", "axes"), [("HSDP", {"dp_shard", "dp_replicate"}), ("DDP", {"dp_replicate"})]
)
def test_copies_of_the_state_sum_their_gradients(name: str, axes: set[str]) -> None:
    step = StepTimeline(*planned(name))
    predicted = step.prediction.communication
    assert {axis for axis, nbytes in predicted.items() if nbytes} == axes
    found = [one for one in transfer_costs(step) if one.axis == "dp_replicate"]
    assert {(one.kind, one.where) for one in found} == {("all_reduce", "gradients")}
    mesh = step.prediction.setting.spec.parallel.mesh
    assert {one.ranks for one in found} == {mesh["dp_replicate"]}
    sent = sum(one.count * one.nbytes for one in found)
    assert sent == pytest.approx(predicted["dp_replicate"], rel=1e-9)


def test_a_pipeline_s_first_rank_has_no_head() -> None:
    prediction, program = planned("1F1B")
    assert prediction.per_rank == stage_parameters(program, 2, first=True, last=False).total


def test_of_uneven_stages_the_fullest_is_told() -> None:
    spec = load_spec("7b", (*SMALL, "model.n_layers=10", "parallel.pipeline=4"))
    setting = setting_for(spec, device_for(spec, "a100-80gb"))
    model = StepModel(setting, setting.compile())
    every = [model.rank_memory(rank).total for rank in range(4)]
    assert model.memory().total == max(every)
    assert every.index(max(every)) not in (0, 3)
