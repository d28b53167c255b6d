"""What is known exactly, from papers: parameters, days, bytes of state and of activations."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from llamac.ir.program import Program
from llamac.passes.analysis.peak_memory import activations, stage_parameters, training_state
from llamac.passes.analysis.saved_sets import SavedSet, all_saved_sets
from llamac.passes.analysis.timing import TimingModel
from llamac.passes.pass_list import compile_spec, stages
from llamac.plan.device.device import load_device
from llamac.plan.predict import predict
from llamac.plan.prediction import Seconds
from llamac.plan.target import setting_for
from llamac.spec import load_spec
from tests.compare import SPECS, shipped

PARAMETERS = {
    "7b": 6_738_415_616,
    "13b": 13_015_864_320,
    "33b": 32_528_943_616,
    "65b": 65_285_660_672,
    "llama2-70b": 68_976_648_192,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    program = compile_spec(shipped(name, "model.n_layers=2"))
    layers = shipped(name).model.n_layers
    own = stage_parameters(
        replace(program, layers=program.layers[:1] * layers), layers, first=True, last=True
    )
    assert own.total == PARAMETERS[name]
    assert compile_spec(shipped(name)).parameter_count == PARAMETERS[name]


def test_gpu_hours_and_days_of_65b() -> None:
    """Touvron et al. 2023, section 2.4 and table 15: 380 tokens/s/GPU on 2,048 A100 are 1,022,362
    GPU-hours for 1.4T tokens, or about 21 days. That speed is put in, not predicted."""
    spec = load_spec(SPECS / "65b.toml")
    assert spec.parallel.ranks == 2048
    found = predict(setting_for(spec, load_device("a100-80gb")))
    step = Seconds(spec.batch.tokens / 380 / 2048, 0, 0, 0, 0, 0)
    paper = replace(found, seconds=step)
    assert paper.tokens_per_second_per_gpu == pytest.approx(380)
    assert paper.gpu_hours == pytest.approx(1_022_362, rel=2e-3)
    assert paper.days == pytest.approx(1_022_362 / 2048 / 24, rel=2e-3)
    assert paper.days == pytest.approx(20.8, abs=0.05)


@pytest.mark.parametrize("ranks", [1, 8, 64])
def test_bytes_of_state_are_megatron_s(ranks: int) -> None:
    """18 for each parameter; 6 + 12/dp with the distributed optimizer (Megatron Core's guide)."""
    own = stage_parameters(
        compile_spec(shipped("7b", "model.n_layers=2")), 2, first=True, last=True
    )

    def per_parameter(sharding) -> float:
        found = training_state(
            own, "bf16", sharding, ranks, micro_batches=8, whole_stage=False, state_bytes=8
        )
        return sum(found.values()) / own.total

    assert per_parameter("none") == 18
    assert per_parameter("zero1") == pytest.approx(6 + 12 / ranks)


# -- Korthikanti et al. 2022, table 2 --------------------------------------------------------------
#
# Bytes that a layer of GPT keeps, over s·b·h, in 16 bits. Two things differ in our graphs, and are
# accounted for by name: there is no dropout, and attention keeps a log-sum-exp of each row.

T = 8  # tensor-parallel ranks
A, S, H, B = 96, 2048, 12288, 1  # GPT-3 175B
SBH = S * B * H
MASKS = 2  # after attention's projection and after the MLP: a byte an element
LOGSUMEXP = 4 * A * S * B / SBH  # float32
SCORES = 5 * A * S / H  # softmax, dropout's mask and its output, which flash attention never writes

GPT = (
    f"model.dim={H}",
    f"model.n_heads={A}",
    f"model.n_kv_heads={A}",
    f"model.ffn_dim={4 * H}",
    "model.n_layers=1",
    f"batch.sequence_length={S}",
    f"batch.micro_batch={B}",
    f"batch.sequences={B}",
    'kernels.attention="math"',
)
ALONE = ()
TENSOR = (f"parallel.tensor={T}", "parallel.sequence=false")
SEQUENCE = (f"parallel.tensor={T}",)


def kept(policy: str, *ranks: str, scores: bool = True) -> float:
    """Bytes of a layer over s·b·h, by liveness over the compiled graph."""
    spec = shipped("gpt3-block", *GPT, f'recompute.policy="{policy}"', *ranks)
    found = activations(compile_spec(spec), scores_saved=scores)
    return found.saved["block"] / SBH


def test_all_is_kept() -> None:
    assert kept("none") + MASKS - LOGSUMEXP == pytest.approx(34 + SCORES)


def test_all_is_kept_under_tensor_parallelism() -> None:
    assert kept("none", *TENSOR) + MASKS - LOGSUMEXP / T == pytest.approx(10 + 24 / T + SCORES / T)


@cache
def differentiated() -> Program:
    *_, last = stages(shipped("gpt3-block", *GPT, *SEQUENCE), stop_after="differentiate")
    return last.program


def kept_by(*names: str) -> SavedSet:
    program = differentiated()
    cost = TimingModel(program.symbols, program.mesh)
    wanted = frozenset(names)
    return next(s for s in all_saved_sets(program.regions["block"], cost) if s.names == wanted)


# What Megatron keeps: what is gathered over positions is gathered again, from what a rank has.
OWN = ("attn_in", "qkv", "attn_context", "h", "ffn_in", "wide", "hidden")


def test_all_is_kept_under_sequence_parallelism() -> None:
    """Our `none` keeps both linear inputs as they were gathered, and gathers nothing again."""
    own = kept_by(*OWN, "logsumexp").nbytes / SBH + MASKS / T - LOGSUMEXP / T
    assert own + SCORES / T == pytest.approx((34 + SCORES) / T)
    gathered = 2 * (2 - 2 / T)
    ours = kept("none", *SEQUENCE) + MASKS / T - LOGSUMEXP / T - gathered
    assert ours == pytest.approx((34 + SCORES) / T)


def test_attention_is_computed_again() -> None:
    """Megatron's `selective`: all but what lies between q, k, v and attention's output."""
    one = kept_by(*OWN)
    assert one.nbytes / SBH + MASKS / T == pytest.approx(34 / T)
    assert one.seconds > kept_by(*OWN, "logsumexp").seconds


@pytest.mark.parametrize("ranks", [ALONE, TENSOR])
def test_all_is_computed_again(ranks: tuple[str, ...]) -> None:
    assert kept("full", *ranks) == 2
