"""Cutting layers into pipeline stages: every way there is cannot be faster."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamac.ir.parser import parse_program
from llamac.ir.printer import print_program
from llamac.ir.verifier import verify
from llamac.passes.cut import Cut, balance_stages
from llamac.passes.pass_list import compile_spec
from llamac.spec import load_spec

SECONDS = st.sampled_from([0.5, 1.0, 1.0, 2.0, 3.0])


def slowest(
    counts: tuple[int, ...], layers: list[float], before: float = 0.0, after: float = 0.0
) -> float:
    times, begin = [], 0
    for count in counts:
        times.append(sum(layers[begin : begin + count]))
        begin += count
    times[0] += before
    times[-1] += after
    return max(times)


@given(st.lists(SECONDS, min_size=1, max_size=8), st.integers(1, 4), SECONDS, SECONDS)
def test_no_cut_is_faster(layers: list[float], stages: int, before: float, after: float) -> None:
    if stages > len(layers):
        return
    counts = balance_stages(layers, stages, before, after)
    assert sum(counts) == len(layers)
    assert len(counts) == stages
    assert all(counts)
    every = []
    for ends in combinations(range(1, len(layers)), stages - 1):
        bounds = [0, *ends, len(layers)]
        every.append(tuple(b - a for a, b in pairwise(bounds)))
    best = min(slowest(cut, layers, before, after) for cut in every)
    assert slowest(counts, layers, before, after) == pytest.approx(best)


@given(st.integers(1, 9), st.integers(1, 4), SECONDS, SECONDS)
def test_layers_alike_are_spread_as_well_as_any(
    count: int, stages: int, before: float, after: float
) -> None:
    if stages > count:
        return
    counts = balance_stages([1.0] * count, stages, before, after)
    # One layer that differs in nothing that counts takes the way of layers that are not alike.
    other = balance_stages([1.0] * (count - 1) + [1.0 + 1e-12], stages, before, after)
    found, best = (slowest(cut, [1.0] * count, before, after) for cut in (counts, other))
    assert (sum(counts), len(counts), min(counts) > 0) == (count, stages, True)
    assert found == pytest.approx(best)


def test_layers_alike_are_spread_evenly_and_the_last_stages_have_more() -> None:
    assert balance_stages([1.0] * 10, 4) == (2, 2, 3, 3)
    assert balance_stages([1.0] * 22, 2, after=2.0) == (12, 10)


def test_stages_are_part_of_the_program_and_its_text() -> None:
    spec = load_spec("specs/tiny.toml").replace(
        {"parallel.pipeline": 3, "batch.micro_batch": 1, "model.n_layers": 7}
    )
    program = compile_spec(spec)
    assert sum(program.stages) == 7
    assert len(program.stages) == 3
    text = print_program(program)
    assert f"stages {' '.join(map(str, program.stages))}\n" in text
    assert parse_program(text).stages == program.stages


def test_stages_that_do_not_hold_all_layers_are_found() -> None:
    program = Cut(2).apply(compile_spec(load_spec("specs/tiny.toml")))
    verify(program)
    wrong = Cut(2).apply(program).__class__(**{**program.__dict__, "stages": (2, 2)})
    with pytest.raises(ValueError, match="must be positive and add up to 6 layers"):
        verify(wrong)
