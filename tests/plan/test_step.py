"""A step laid out in time: it takes what was predicted, and no lane does two things at once."""

from __future__ import annotations

from collections import defaultdict

import pytest

from llamac.plan.breakdown import ops, regions, transfers
from llamac.plan.step import Step
from tests.plan.steps import LAYOUTS, planned

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
