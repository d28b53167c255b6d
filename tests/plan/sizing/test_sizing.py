"""Compute-optimal sizes, against the numbers that the papers print."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamac.cli import main
from llamac.ir.program import Program
from llamac.passes.pass_list import stages
from llamac.plan.device.device import load_device
from llamac.plan.sizing.model_shape import llama_shape, llama_with
from llamac.plan.sizing.scaling_laws import (
    BESIROGLU,
    HOFFMANN,
    ComputeBudgetError,
    flops_of,
    gpu_days,
    optima,
    parse_flops,
    smaller_models,
)
from llamac.plan.sizing.sized_spec import ComputeBudget, choices, find_optimum
from llamac.spec import load_spec

LLAMAS = {"7b": 6_738_415_616, "13b": 13_015_864_320, "33b": 32_528_943_616, "65b": 65_285_660_672}


def by(flops: float) -> dict[str, tuple[float, float]]:
    return {one.key: (one.parameters, one.tokens) for one in optima(flops)}


# Hoffmann et al. 2022: FLOPs and tokens for a model size, approach 1 in table 3, 2 and 3 in A3.
TABLES = [
    ("chinchilla-1", 400e6, 1.92e19, 8.0e9),
    ("chinchilla-1", 1e9, 1.21e20, 20.2e9),
    ("chinchilla-1", 10e9, 1.23e22, 205.1e9),
    ("chinchilla-1", 175e9, 3.85e24, 3.7e12),
    ("chinchilla-1", 1e12, 1.27e26, 21.2e12),
    ("chinchilla-2", 400e6, 1.84e19, 7.7e9),
    ("chinchilla-2", 10e9, 1.32e22, 219.5e9),
    ("chinchilla-2", 175e9, 4.54e24, 4.3e12),
    ("chinchilla-2", 1e12, 1.59e26, 26.5e12),
    ("chinchilla-3", 400e6, 2.21e19, 9.2e9),
    ("chinchilla-3", 10e9, 2.46e22, 410.1e9),
    ("chinchilla-3", 67e9, 1.71e24, 4.1e12),
]


@pytest.mark.parametrize(("law", "parameters", "flops", "tokens"), TABLES)
def test_optima_are_those_of_chinchilla_s_tables(
    law: str, parameters: float, flops: float, tokens: float
) -> None:
    assert by(flops)[law] == (
        pytest.approx(parameters, rel=0.055),
        pytest.approx(tokens, rel=0.08),
    )


def test_chinchilla_itself_is_what_its_budget_asks_for() -> None:
    """70B on 1.4T tokens for Gopher's 5.76e23 FLOPs; 40B by approach 3 (section 3.4)."""
    found = by(5.76e23)
    for law in ("chinchilla-1", "refitted"):
        assert found[law] == (pytest.approx(70e9, rel=0.06), pytest.approx(1.4e12, rel=0.06))
    assert found["chinchilla-3"][0] == pytest.approx(40e9, rel=0.02)


def test_the_refit_asks_for_about_20_tokens_a_parameter() -> None:
    """Besiroglu et al. 2024, section 4."""
    for flops in (1e22, 5.76e23):
        parameters, tokens = by(flops)["refitted"]
        assert 17 < tokens / parameters < 23


def test_kaplan_gives_a_larger_budget_to_the_model() -> None:
    """Kaplan et al. 2020, table 6: ten times the compute, 5.4 times the parameters."""
    one, ten = by(8.64e19)["kaplan"], by(8.64e20)["kaplan"]
    assert one[0] == pytest.approx(1.3e9)
    assert ten[0] / one[0] == pytest.approx(5.3703, rel=1e-4)
    assert by(1e23)["kaplan"][0] > 3 * by(1e23)["chinchilla-1"][0]


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU], ids=["hoffmann", "besiroglu"])
@pytest.mark.parametrize("flops", [1e19, 1e22, 1e25])
def test_an_optimum_has_the_smallest_loss_of_its_budget(law: object, flops: float) -> None:
    best = law.optimum(flops)  # type: ignore[attr-defined]
    losses = [
        law.loss(best * off, flops / (6 * best * off))  # type: ignore[attr-defined]
        for off in (1.0, 0.97, 1.03, 0.5, 2.0)
    ]
    assert min(losses) == losses[0]


def test_smaller_models_reach_the_loss_and_repay_what_they_cost() -> None:
    best = next(one for one in optima(1e23) if one.key == "refitted")
    first, *rest = smaller_models(best)
    assert first.tokens == pytest.approx(best.tokens)
    assert first.repaid == 0
    for one in rest:
        assert BESIROGLU.loss(one.parameters, one.tokens) == pytest.approx(best.loss)
        trained_and_used = one.flops + one.inference * one.repaid
        assert trained_and_used == pytest.approx(best.flops + 2 * best.parameters * one.repaid)
        assert one.same > best.loss
    assert [one.flops for one in rest] == sorted(one.flops for one in rest)


@pytest.mark.parametrize("name", LLAMAS)
def test_the_shape_of_a_llama_s_size_is_that_llama(name: str) -> None:
    model, shape = load_spec(name).model, llama_with(LLAMAS[name])
    assert (shape.dim, shape.n_layers, shape.n_heads) == (
        model.dim,
        model.n_layers,
        model.n_heads,
    )
    assert shape.parameters == LLAMAS[name]


@pytest.mark.parametrize("wanted", [40e6, 125e6, 1e9, 3e9, 20e9, 175e9, 400e9, 1e12])
def test_any_size_has_a_shape_close_to_it(wanted: float) -> None:
    shape = llama_with(wanted)
    assert shape.parameters == pytest.approx(wanted, rel=0.03)
    assert shape.dim == 128 * shape.n_heads
    assert 30 < shape.dim / shape.n_layers < 140


def test_a_shape_counts_its_parameters_as_the_compiler_does() -> None:
    spec = load_spec("7b").replace({"model.dim": 512, "model.n_layers": 3, "model.n_heads": 4})
    program: Program = next(stages(spec, stop_after="lower")).program
    assert llama_shape(512, 3).parameters == program.parameter_count


def test_days_of_a_gpu_and_flops_are_one_another_s_inverse() -> None:
    device = load_device("a100-80gb")
    assert gpu_days(flops_of(1000, device), device) == pytest.approx(1000)
    assert flops_of(1, device, use=0.5) == pytest.approx(1.34784e19)


@pytest.mark.parametrize("text", ["abc", "1e5", "-1e22", "nan", "inf", "", "1e40"])
def test_a_budget_that_is_none_says_what_one_is(text: str) -> None:
    with pytest.raises(ComputeBudgetError, match="such as 1e22"):
        parse_flops(text)


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize("law", choices())
@pytest.mark.parametrize("flops", ["1e18", "1e22", "1e25"])
def test_the_chosen_size_is_written_as_a_spec_that_check_accepts(
    flops: str, law: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sized.toml"
    assert main(["plan", "--compute", flops, "--choose", law, "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert main(["check", str(out)]) == 0
    spec, best = (
        load_spec(out),
        find_optimum(ComputeBudget(float(flops), load_device("a100-80gb")), law),
    )
    shape = llama_shape(spec.model.dim, spec.model.n_layers)
    assert shape.parameters == pytest.approx(best.parameters, rel=0.03)
    assert spec.schedule.tokens == pytest.approx(best.tokens)
    assert spec.model.ffn_dim % 256 == 0
    assert spec.parallel.ranks == 1
    assert f"{shape.parameters:,} parameters" in said


def test_days_of_gpus_are_a_budget_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpu-days", "2048", "--device", "h100-sxm"]) == 0
    said = capsys.readouterr().out
    assert "2,048 days of one NVIDIA H100" in said
    for words in ("Kaplan", "Chinchilla, approach 1", "LLaMA's argument", "saves after"):
        assert words in said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--compute", "lots"], "such as 1e22"),
        (["--gpu-days", "0"], "the laws speak of"),
        (["--compute", "1e22", "--gpu-days", "3"], "are mutually exclusive"),
        (["--compute", "1e22", "--device", "abacus"], "no device 'abacus'"),
        (["tiny", "--compute", "1e22"], "SPEC has no effect"),
        (["--compute", "1e22", "--choose", "llama"], "--choose has no effect"),
        (["--compute", "1e15", "-o", "OUT"], "give more compute"),
    ],
)
def test_a_budget_that_buys_nothing_says_why(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sized.toml"
    given = [str(out) if text == "OUT" else text for text in arguments]
    assert main(["plan", *given]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
