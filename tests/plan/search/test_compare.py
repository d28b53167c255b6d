"""Why one layout beats another: the terms add up, and the sentences name what differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamac.cli import main
from llamac.plan.device.device import load_device
from llamac.plan.predict import predict
from llamac.plan.prediction import Prediction
from llamac.plan.search.compare import reasons, term_differences, verdict
from llamac.plan.search.rank_layout import parse_layout
from llamac.plan.setting import Setting
from llamac.spec import load_spec


def planned(text: str, gpus: int = 64, memory: float = 85e9) -> Prediction:
    spec = load_spec("7b")
    layout = parse_layout(text, spec, gpus)
    device = replace(load_device("a100-80gb"), memory=int(memory))
    return predict(Setting(spec.replace(layout.changes(spec)), device))


def test_differences_are_those_of_the_predictions() -> None:
    a, b = planned("dp64,mb1,selective"), planned("tp8,pp2,mb1,full")
    for section, part in zip(term_differences(a, b), ("seconds", "memory"), strict=True):
        *terms, whole = [[float(str(n).replace("−", "-")) for n in row[1:]] for row in section.rows]
        for one, other, gap in (*terms, whole):
            assert other - one == pytest.approx(gap, abs=0.02)
        scale = 1.0 if part == "seconds" else 1e9
        totals = [getattr(one, part).total / scale for one in (a, b)]
        assert whole[:2] == pytest.approx(totals, abs=0.006)
        assert sum(gap for *_, gap in terms) == pytest.approx(whole[2], abs=0.05)


def test_the_faster_one_is_named_in_either_order() -> None:
    a, b = planned("dp64,mb1,selective"), planned("tp8,pp2,mb1,full")
    fast, slow = sorted((a, b), key=lambda one: one.seconds.total)
    assert verdict(fast, slow) == verdict(slow, fast)
    winner = "dp64,mb1,selective" if fast is a else "tp8,pp2,dp4,mb1,full"
    assert verdict(a, b).startswith(f"{winner} beats ")
    assert verdict(a, a).startswith("both are equally fast")


def test_one_that_does_not_fit_is_said_before_all() -> None:
    a, b = (planned(text, memory=30e9) for text in ("tp8,pp2,mb1,full", "dp64,mb8,none"))
    assert "dp64,mb8,none does not fit" in verdict(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("tp2,mb1,selective", "tp2,mb1,full", "(selective against full)"),
        ("pp2,vpp4,mb1,none", "pp8,mb1,none", "a bubble of (8 - 1) micro-batches to"),
        ("tp2,mb1,none", "tp8,mb1,none", "tp 8 sends"),
        ("dp64,mb1,selective", "rep64,mb1,selective", "parameters on every rank"),
        ("mb1,full", "mb8,none", "saves those of 8 sequences (checkpointing none)"),
    ],
)
def test_what_differs_is_explained(first: str, second: str, words: str) -> None:
    assert words in "\n".join(reasons(planned(first), planned(second)))


@pytest.mark.slow
def test_the_command_takes_names_and_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["plan", "tiny", "--gpus", "2", "--device", "a100-80gb"]
    assert main([*given, "--why", "1", "tp2,mb1,full"]) == 0
    said = capsys.readouterr().out
    assert "beats tp2,mb1,full by" in said
    assert "B - A" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("tp2,mb1", "tp3"), "layout 'tp3' has 3 ranks, but there are 2 GPUs"),
        (("0", "1"), "rows of a search are numbered from 1"),
        (("1", "30"), "the search found"),
        (("mb3", "tp2"), "micro_batch"),
    ],
)
def test_layouts_that_are_none_are_refused(
    names: tuple[str, str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = ["--gpus", "1"] if "30" in names else ["--gpus", "2"]
    assert main(["plan", "tiny", *ranks, "--device", "a100-80gb", "--why", *names]) == 2
    assert complaint in capsys.readouterr().err
