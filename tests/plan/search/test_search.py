"""The search: it tries all that is legal, leaves nothing faster, and writes what builds."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from llamac.cli import main
from llamac.ir.verifier import verify
from llamac.passes.pass_list import compile_spec
from llamac.plan.device.device import load_device
from llamac.plan.predict import predict
from llamac.plan.search.layout_enumeration import ModelSplit
from llamac.plan.search.lower_bound import lower_bound_seconds
from llamac.plan.search.rank_layout import POLICIES, Layout, layout_of, parse_layout
from llamac.plan.search.search import search
from llamac.plan.setting import Setting
from llamac.plan.target import LayoutError
from llamac.plan.uncertainty import fit_of, memory_range
from llamac.spec import Spec, SpecError, load_spec


def small(**changes: object) -> Spec:
    """Eight layers and heads of nothing, eight sequences a step."""
    base = {
        "model.n_layers": 4,
        "batch.sequence_length": 64,
        "batch.tokens": 512,
        "batch.micro_batch": 1,
        "hardware.gpu": "a100-80gb",
    }
    return load_spec("tiny").replace(base | changes)


def setting(spec: Spec, **device: object) -> Setting:
    return Setting(spec, replace(load_device("a100-80gb"), **device))


def every(spec: Spec, gpus: int) -> list[Layout]:
    """All layouts that the spec's own rules accept, by trying every one."""
    degrees = [n for n in range(1, gpus + 1) if gpus % n == 0]
    found = []
    for t, c, p, s, r in itertools.product(degrees, repeat=5):
        if t * c * p * s * r != gpus:
            continue
        for virtual, micro, sp in itertools.product(
            range(1, spec.model.n_layers + 1), range(1, spec.batch.sequences + 1), (True, False)
        ):
            if t == 1 and not sp:  # means nothing there
                continue
            layout = Layout(t, sp, c, p, virtual, s, r, micro, "none")
            try:
                spec.replace(layout.changes(spec))
            except SpecError:
                continue
            found.append(layout)
    return found


@pytest.mark.slow
def test_it_counts_exactly_the_layouts_that_a_spec_may_have() -> None:
    spec = small()
    found = search(setting(spec), 4, top=3, workers=1)
    assert found.legal == len(POLICIES) * len(every(spec, 4))
    assert found.legal == sum(found.unfit.values()) + found.slower + found.timed


@pytest.mark.slow
def test_nothing_that_fits_is_faster() -> None:
    spec = small()
    (best, *_) = search(setting(spec), 4, top=3, workers=1).best
    fastest = best.prediction.seconds.total
    for layout in every(spec, 4)[::5]:
        for policy in POLICIES:
            other = replace(layout, checkpoint=policy)
            one = predict(setting(spec.replace(other.changes(spec))))
            assert not one.fits or one.seconds.total >= fastest * (1 - 1e-9), other


@pytest.mark.slow
def test_memory_decides() -> None:
    spec, roomy = small(), search(setting(small()), 4, top=1, workers=1)
    needs = roomy.best[0].prediction.memory.total
    tight = search(setting(spec, memory=int(needs * 0.995)), 4, top=1, workers=1)
    assert tight.best[0].layout != roomy.best[0].layout
    assert tight.best[0].prediction.fits
    assert sum(tight.unfit.values()) > sum(roomy.unfit.values())


@pytest.mark.slow
def test_what_is_likelier_than_not_to_run_out_of_memory_is_not_found() -> None:
    """Capacities on both sides of the median of measured peaks over the predicted one."""
    roomy = search(setting(small()), 4, top=1, workers=1).best[0]
    median = roomy.prediction.memory.total * memory_range().median
    for capacity, found_again in ((int(median * 0.999), False), (int(median * 1.001), True)):
        found = search(setting(small(), memory=capacity), 4, top=3, workers=1).best
        assert all(fit_of(one.prediction) != "no" for one in found)
        assert (found[0].layout == roomy.layout) == found_again


@pytest.mark.slow
def test_memory_that_is_left_is_used_by_a_budget() -> None:
    """Where what no policy keeps would not fit but more than selective's does, budget keeps it."""
    spec = load_spec("7b").replace({"schedule.tokens": "100B"})
    best = search(setting(spec), 8, top=6, workers=1).best
    layouts = [one.layout for one in best]
    chosen = next(one for one in best if one.layout.checkpoint == "budget")
    assert chosen.layout.budget is not None
    assert chosen.prediction.fits
    for one in best:
        if replace(one.layout, checkpoint="") == replace(chosen.layout, checkpoint="", budget=None):
            assert chosen.prediction.seconds.total < one.prediction.seconds.total
    assert parse_layout(str(chosen.layout), spec, 8) == chosen.layout
    assert len(set(layouts)) == len(layouts)


@pytest.mark.slow
def test_processes_find_what_one_finds() -> None:
    alone, several = (search(setting(small()), 4, top=4, workers=n) for n in (1, 2))
    assert [one.layout for one in alone.best] == [one.layout for one in several.best]
    assert (alone.unfit, alone.slower) == (several.unfit, several.slower)


@pytest.mark.slow
def test_what_is_told_of_the_best_is_what_plan_tells() -> None:
    spec = small()
    for one in search(setting(spec), 4, top=2, workers=1).best:
        again = spec.replace(one.layout.changes(spec))
        assert predict(setting(again)).to_json() == one.prediction.to_json()
        assert layout_of(again) == one.layout


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shape", [(1, True, 1), (2, True, 1), (4, False, 1), (2, True, 2)])
@pytest.mark.parametrize("name", ["7b", "llama2-70b", "gpt3-block"])
def test_the_bound_is_below_every_prediction(
    name: str, shape: tuple[int, bool, int], policy: str
) -> None:
    where = ModelSplit(*shape)
    spec = load_spec(name)
    for micro in (1, 4):
        layout = Layout(*shape, data_shard=64 // where.ranks, micro_batch=micro, checkpoint=policy)
        one = setting(spec.replace(layout.changes(spec)))
        bound = lower_bound_seconds(setting(spec), 64, where, policy)
        assert 0 < bound <= predict(one).seconds.total


# -- layouts as text -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "tp8,pp4,dp64,mb1,selective",
        "tp4,nosp,cp2,pp2,vpp5,dp16,rep8,mb4,none",
        "dp2048,mb1,full",
    ],
)
def test_a_layout_is_read_as_it_is_written(text: str) -> None:
    assert str(parse_layout(text, load_spec("65b"), 2048)) == text


def test_data_ranks_are_what_is_left_and_the_rest_the_spec_s() -> None:
    spec = load_spec("65b").replace({"batch.micro_batch": 2, "recompute.policy": "full"})
    layout = parse_layout("tp8 pp4", spec, 2048)
    assert layout == Layout(8, pipeline=4, data_shard=64, micro_batch=2, checkpoint="full")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tp8,zz4", "'zz4' is unknown; known: tpN"),
        ("tp8,tp4", "says twice what tensor is"),
        ("tp8,dp3", "has 24 ranks, but there are 2,048 GPUs"),
        ("tp0", "'tp0' is unknown"),
        (",", "is empty; write one such as tp8,pp4,dp64,mb1,selective"),
    ],
)
def test_a_layout_that_cannot_be_read_says_what_it_may_be(text: str, complaint: str) -> None:
    with pytest.raises(LayoutError, match=complaint):
        parse_layout(text, load_spec("65b"), 2048)


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_is_written_as_a_spec_that_builds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = tmp_path / "base.toml", tmp_path / "best.toml"
    base.write_text('extends = "tiny"\n[batch]\nsequence_length = 64\ntokens = 512\n')
    given = ["plan", str(base), "--search", "--gpus", "2", "--device", "a100-80gb", "--top", "2"]
    assert main([*given, "--set", "model.n_layers=4", "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "legal layouts" in said
    spec = load_spec(out)
    assert f"wrote {out}: {layout_of(spec)}" in said
    assert (spec.parallel.ranks, spec.model.n_layers) == (2, 4)
    assert spec.hardware.gpu == "a100-80gb"
    assert out.read_text().startswith("# The fastest of ")
    verify(compile_spec(spec))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--gpus", "4099"], "has no layout on 4,099 GPUs"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--top", "0"], "Invalid value for '--top'"),
        (["--trace", "x.json"], "--trace has no effect with --search"),
        (["--why", "1", "2"], "are mutually exclusive"),
        (["-o", "missing/best.toml"], "there is no directory missing"),
    ],
)
def test_a_search_that_cannot_be_made_says_why(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    device = [] if "--device" in arguments else ["--device", "a100-80gb"]
    assert main(["plan", "tiny", "--search", *device, *arguments]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_where_nothing_fits_the_least_and_the_ways_out_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "65b", "--search", "--gpus", "1", "--device", "a100-40gb"]) == 2
    said = capsys.readouterr().err
    assert "no layout of 65b on 1 GPU fits" in said
    assert "the smallest takes" in said
    assert "--gpus" in said
