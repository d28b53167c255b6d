"""The learning rate, against its definition and against torch's own cosine."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from llamac.runtime.train.lr_schedule import SHAPES, learning_rate
from llamac.spec.schedule import Schedule

LLAMA = {"kind": "cosine", "peak": 3e-4, "warmup_steps": 2000, "total_steps": 10_000}


def test_warm_up_is_linear_from_the_first_update():
    rates = [learning_rate(step, min_ratio=0.1, **LLAMA) for step in (0, 999, 1999)]
    assert rates == pytest.approx([3e-4 / 2000, 1.5e-4, 3e-4])


@pytest.mark.parametrize(("kind", "middle", "last"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1)])
def test_decay_passes_the_mean_half_way_and_ends_on_the_ratio(kind, middle, last):
    settings = {**LLAMA, "kind": kind, "peak": 1.0, "min_ratio": 0.1}
    assert learning_rate(5999, **settings) == pytest.approx(middle)
    assert learning_rate(9999, **settings) == pytest.approx(last)
    assert learning_rate(20_000, **settings) == pytest.approx(last)


def test_constant_stays_at_the_peak():
    settings = {**LLAMA, "kind": "constant", "min_ratio": 0.0}
    assert {learning_rate(step, **settings) for step in (1999, 5000, 9999)} == {3e-4}


def test_without_warm_up_and_with_nothing_but_warm_up():
    assert learning_rate(
        0, kind="linear", peak=1.0, warmup_steps=0, total_steps=1, min_ratio=0.25
    ) == pytest.approx(0.25)
    assert learning_rate(
        9, kind="cosine", peak=1.0, warmup_steps=10, total_steps=10, min_ratio=0.1
    ) == pytest.approx(1.0)


def test_cosine_is_the_one_torch_has():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.5)
    for step in range(20):
        optimizer.step()
        theirs.step()
        ours = learning_rate(
            step, kind="cosine", peak=2.0, warmup_steps=0, total_steps=20, min_ratio=0.25
        )
        assert ours == pytest.approx(theirs.get_last_lr()[0])


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"'step'.*cosine"):
        learning_rate(5, kind="step", peak=1.0, warmup_steps=0, total_steps=9, min_ratio=0.1)


def test_wsd_stays_at_the_peak_and_then_falls_in_a_line():
    settings = {**LLAMA, "kind": "wsd", "peak": 1.0, "min_ratio": 0.1, "decay": 0.25}
    stable = {learning_rate(step, **settings) for step in (1999, 5000, 7999)}
    assert stable == {1.0}
    assert learning_rate(8999, **settings) == pytest.approx(0.55)
    assert learning_rate(9999, **settings) == pytest.approx(0.1)


def test_a_spec_may_ask_for_every_shape_and_for_no_other():
    assert set(get_args(Schedule.model_fields["kind"].annotation)) == SHAPES.keys()
