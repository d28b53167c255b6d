"""Curves for a screen: no extreme is lost, and no number is another than in the file."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llamac.report.curve import curve, extremes, numbers


def columns(count: int) -> dict[str, np.ndarray]:
    dice = np.random.default_rng(0)
    steps = np.arange(1, count + 1, dtype=float)
    loss = dice.normal(2, 0.1, count)
    return {"step": steps, "tokens": steps * 2048, "loss": loss, "step_seconds": steps * 0 + 0.5}


def test_a_short_run_is_row_by_row():
    given = columns(300)
    found = curve(given)
    assert found["step"] == found["from"] == list(range(1, 301))
    assert found["tokens"] == [2048 * n for n in range(1, 301)]
    assert found["series"]["loss"] == {"mean": given["loss"].tolist()}
    assert found["hours"][-1] == pytest.approx(150 / 3600, rel=1e-6)


@pytest.mark.parametrize("count", [2001, 10_000, 54_321])
def test_a_long_run_keeps_the_extremes_of_each_point(count):
    given = columns(count)
    given["loss"][[3, count // 2, count - 2]] = [99.0, -99.0, 77.0]
    found = curve(given)
    loss = found["series"]["loss"]
    assert len(found["step"]) == 2000
    for first, last, low, high, mean in zip(
        found["from"], found["step"], loss["low"], loss["high"], loss["mean"], strict=True
    ):
        rows = given["loss"][first - 1 : last]
        assert (low, high) == (rows.min(), rows.max())
        assert mean == pytest.approx(rows.mean(), rel=1e-6)
    assert found["from"][1:] == [step + 1 for step in found["step"][:-1]]
    assert found["step"][-1] == count


def test_what_is_not_finite_is_a_gap():
    given = columns(3)
    given["loss"][1] = math.nan
    assert curve(given)["series"]["loss"]["mean"][1] is None
    long = columns(4000)
    long["loss"][:10] = math.nan
    long["loss"][11] = math.nan
    loss = curve(long)["series"]["loss"]
    assert loss["mean"][:5] == loss["low"][:5] == loss["high"][:5] == [None] * 5
    assert loss["low"][5] == loss["high"][5] == long["loss"][10]


def test_a_run_without_rows_has_an_empty_curve():
    assert curve({})["rows"] == 0


def test_numbers_are_json():
    values = np.array([1.0, 0.1, math.nan, 2.0**53, 1e300])
    assert numbers(values) == [1, 0.1, None, 2**53, 1e300]
    assert [type(n) for n in numbers(values)] == [int, float, type(None), float, float]
    assert numbers(np.array([1 / 3]), 4) == [0.3333]


def test_extremes_keep_the_ends_the_least_and_the_greatest():
    values = np.random.default_rng(0).normal(size=10_000)
    kept = extremes(values, 100)
    assert len(kept) <= 102
    assert {0, 9_999, int(values.argmin()), int(values.argmax())} <= set(kept.tolist())
    assert extremes(values, 10_000).tolist() == list(range(10_000))
