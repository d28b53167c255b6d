"""Published facts of other frameworks, one by one (issue 18): each changes what it should."""

from __future__ import annotations

import pytest

from llamac.plan.cost.framework import (
    FUSED_SOFTMAX,
    OP_BY_OP_RMS_NORM,
    TORCH_SOFTMAX,
    FrameworkProfile,
)
from llamac.plan.device.device import load_device
from llamac.plan.prediction import Prediction
from llamac.plan.published.framework_rules import framework_of, profile_of
from llamac.plan.published.row_setting import published_run
from llamac.plan.published.score import predict_row

A100 = load_device("a100-80gb")
LLAMA = {
    "framework": "Aleph Alpha scaling",
    "model": "llama-13b",
    "n_layers": "40",
    "d_model": "5120",
    "n_heads": "40",
    "d_ffn": "13824",
    "mlp": "swiglu",
    "vocab": "32000",
    "gpu": "A100-80GB",
    "n_gpus": "64",
    "dtype": "bf16",
    "seq_len": "2048",
    "gbs_seqs": "2048",
    "mbs": "1",
    "tp": "2",
    "pp": "1",
    "sp": "0",
    "dp_sharding": "ZeRO-1",
    "act_ckpt": "none",
    "attn_kernel": "flash_attn2 + RMS kernel",
}


def profile(**changes: str) -> FrameworkProfile:
    return published_run(LLAMA | changes).setting.profile


def planned(**changes: str) -> Prediction:
    return predict_row(LLAMA | changes)


def speed(**changes: str) -> float:
    return planned(**changes).tokens_per_second_per_gpu


@pytest.mark.parametrize(
    ("kernel", "fused"),
    [
        ("flash_attn2 + RMS kernel", True),
        ("flash2 + rmsnorm kernel", True),
        ("flash_attn2 with fused RMSNorm", True),
        ("flash_attn2", False),
        ("torch", False),
        ("flash_attn2, no RMSNorm kernel", False),
    ],
)
def test_norms_of_eager_llama_run_op_by_op_unless_a_kernel_is_named(
    kernel: str, fused: bool
) -> None:
    found = profile(attn_kernel=kernel)
    assert found.norm == (None if fused else OP_BY_OP_RMS_NORM)
    assert found.norm_kept == (0.0 if fused else 8.0)


def test_op_by_op_norms_cost_time_and_memory() -> None:
    fused, plain = planned(), planned(attn_kernel="flash_attn2")
    assert 1.05 < plain.seconds.total / fused.seconds.total < 1.2
    elements = 2048 * 5120 * 2 * 40  # tokens, width, norms of a layer, layers
    assert plain.memory.activations - fused.memory.activations == pytest.approx(
        8 * elements, rel=0.1
    )


@pytest.mark.parametrize(
    ("kernel", "scores"),
    [("torch", TORCH_SOFTMAX), ("fused", FUSED_SOFTMAX), ("flash_attn1.0.8", None), ("sdpa", None)],
)
def test_kernels_that_write_scores_do(kernel: str, scores: object) -> None:
    assert profile(attn_kernel=kernel).scores == scores


def test_written_scores_cost_more_than_flash_attention() -> None:
    flash, fused, torch = (speed(attn_kernel=name) for name in ("flash_attn2", "fused", "torch"))
    assert torch < fused < flash
    assert planned(attn_kernel="torch").memory.total > planned(attn_kernel="fused").memory.total


@pytest.mark.parametrize(
    ("sharding", "overlapped"),
    [("ZeRO-1", False), ("zero1 overlapped", True), ("ZeRO-1 (no overlap)", False)],
)
def test_zero_is_not_hidden_unless_it_says_so(sharding: str, overlapped: bool) -> None:
    row = LLAMA | {"framework": "deepspeed", "dp_sharding": sharding}
    assert profile_of(row, A100, llama=True).overlapped is overlapped


def test_gradients_are_held_in_bf16_and_reduced_in_fp32() -> None:
    found = planned(tp="1")
    assert found.memory.gradients == 2 * found.per_rank
    # An all-reduce in fp32 and a gather in bf16: 8 + 2 bytes for each parameter.
    sent = found.communication["dp_replicate"]
    assert sent == pytest.approx(10 * found.per_rank * 63 / 64)


def test_gathered_logits_are_not_divided_by_tensor_ranks() -> None:
    gathered = planned(vocab="128000", tp="4").memory.logits
    assert gathered == pytest.approx(planned(vocab="128000", tp="2").memory.logits, rel=0.2)
    assert 12 <= gathered / (2048 * 128_000) <= 16


def test_the_head_runs_again_under_full_checkpointing() -> None:
    assert profile(act_ckpt="every_layer").recomputes_head
    assert not profile(act_ckpt="none").recomputes_head


@pytest.mark.parametrize(("layers", "width", "ffn"), [(16, 2048, 8192), (32, 4096, 14336)])
def test_a_layer_under_tensor_parallelism_takes_the_hosts_time(
    layers: int, width: int, ffn: int
) -> None:
    """4.4 ms a layer and micro-batch in nanotron on H100s, whatever the model's size (issue 18)."""
    row = LLAMA | {
        "framework": "nanotron",
        "n_layers": str(layers),
        "d_model": str(width),
        "n_heads": "32",
        "d_ffn": str(ffn),
        "gpu": "H100",
        "n_gpus": "8",
        "tp": "8",
        "sp": "1",
        "seq_len": "1024",
        "gbs_seqs": "8",
        "dp_sharding": "none",
        "attn_kernel": "flash_attn2",
    }
    found = predict_row(row).seconds
    each = (found.compute + found.tensor) / 8 / layers
    assert each == pytest.approx(4.4e-3, rel=0.15)


def test_nanotrons_cluster_has_efa_between_its_nodes() -> None:
    assert published_run(LLAMA | {"framework": "nanotron", "gpu": "H100"}).setting.device.name == (
        "h100-efa"
    )


@pytest.mark.parametrize(
    ("framework", "key"),
    [
        ("Aleph Alpha scaling", "aleph-alpha"),
        ("our own code", "aleph-alpha"),  # ZeRO-1 over tensor parallelism
        ("nanotron 0.4", "nanotron"),
        ("GPT-NeoX", "eager"),
        ("Megatron-LM", "megatron"),
    ],
)
def test_frameworks_are_told_apart(framework: str, key: str) -> None:
    assert framework_of(LLAMA | {"framework": framework}, A100) == key


def test_matmuls_are_faster_under_newer_cublas() -> None:
    efficiency = load_device("h100-sxm").efficiency
    assert efficiency.matmul_of(False) == 0.584
    assert efficiency.matmul_of(True) == 0.68
    assert A100.efficiency.matmul_of(True) == A100.efficiency.matmul_of(False)
