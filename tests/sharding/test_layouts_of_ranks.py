"""What ranks compute together is what one computes: over layouts, models and their ablations."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llamac.passes.activation_checkpoint import POLICIES
from llamac.passes.pass_list import stages
from llamac.verify.oracle import TOLERANCE, errors, make_oracle
from llamac.verify.verdicts import run_program
from tests.compare import shrunk
from tests.options import options

pytestmark = pytest.mark.slow

FROM = ("shard", "checkpoint")


def check(*overrides: str) -> None:
    spec = shrunk("tiny", *overrides)
    oracle = make_oracle(spec)
    for stage in stages(spec):
        if stage.name in FROM:
            found = errors(run_program(stage.program, oracle), oracle.outcome)
            what, worst = max(found.items(), key=lambda item: item[1])
            assert worst < TOLERANCE, f"{what} after {stage.name}: {worst:.1e}"


@pytest.mark.parametrize(
    "layout",
    [
        ("parallel.tensor=2",),
        ("parallel.tensor=2", "parallel.sequence=false"),
        ("parallel.tensor=4",),
        ("parallel.tensor=4", "model.n_kv_heads=2"),  # two ranks hold each key head
        ("parallel.tensor=4", "model.n_kv_heads=1", "parallel.sequence=false"),
        ("parallel.tensor=4", "model.n_kv_heads=2", "model.bias=qkv", "model.qk_norm=true"),
        ("parallel.tensor=2", "model.qk_norm=true", "parallel.sequence=false"),
        ("parallel.tensor=2", "parallel.context=2", "model.qk_norm=true"),
        *(("parallel.context=2", f"model.sliding_window={window}") for window in (1, 8, 9, 25)),
        ("parallel.context=4", "model.sliding_window=13", "kernels.attention=math"),
        ("parallel.tensor=2", "parallel.context=2", "model.sliding_window=17"),
        ("parallel.context=2",),
        ("parallel.context=4", "kernels.attention=math"),
        ("parallel.tensor=2", "parallel.context=2", "model.n_kv_heads=1"),
        ("parallel.tensor=2", "parallel.context=2", "parallel.sequence=false"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("vocabulary", [320, 331])
def test_a_layout_computes_what_one_rank_does(layout: tuple[str, ...], vocabulary: int) -> None:
    check(*layout, f"model.vocab_size={vocabulary}")


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(
    tensor=st.sampled_from([1, 2, 4]),
    context=st.sampled_from([1, 2]),
    sequence=st.booleans(),
    kv_heads=st.sampled_from([1, 2, 4]),
    vocabulary=st.integers(320, 340),
    chunk=st.integers(5, 70),
    norm=st.sampled_from(options("norm")),
    norm_position=st.sampled_from(options("norm_position")),
    activation=st.sampled_from(options("activation")),
    position=st.sampled_from(options("position")),
    bias=st.sampled_from(["false", "true", "qkv", "attention", "feed_forward"]),
    qk_norm=st.booleans(),
    window=st.integers(1, 40),
    tied=st.booleans(),
    policy=st.sampled_from(sorted(POLICIES)),
)
def test_any_layout_of_any_model(
    tensor: int,
    context: int,
    sequence: bool,
    kv_heads: int,
    vocabulary: int,
    chunk: int,
    norm: str,
    norm_position: str,
    activation: str,
    position: str,
    bias: str,
    qk_norm: bool,
    window: int,
    tied: bool,
    policy: str,
) -> None:
    assume(tensor * context > 1)
    check(
        f"parallel.tensor={tensor}",
        f"parallel.context={context}",
        f"parallel.sequence={str(sequence).lower()}",
        f"model.n_kv_heads={kv_heads}",
        f"model.vocab_size={vocabulary}",
        f"kernels.loss_chunk={chunk}",
        f"model.norm={norm}",
        f"model.norm_position={norm_position}",
        f"model.activation={activation}",
        f"model.position={position}",
        f"model.bias={bias}",
        f"model.sliding_window={window}",
        f"model.qk_norm={str(qk_norm).lower()}",
        f"model.tied_embeddings={str(tied).lower()}",
        f"recompute.policy={policy}",
    )
