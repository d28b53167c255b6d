"""Published facts of other frameworks, one by one (issue 18): each changes what it should."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llamac.plan.cost.collective import collective_seconds
from llamac.plan.cost.framework import (
    FUSED_SOFTMAX,
    OP_BY_OP_RMS_NORM,
    TORCH_SOFTMAX,
    FrameworkProfile,
)
from llamac.plan.cost.step_model import StepModel
from llamac.plan.device.device import load_device
from llamac.plan.prediction import Prediction
from llamac.plan.published.framework_rules import framework_of, profile_of
from llamac.plan.published.row_setting import layers_of_stages, published_run
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
    assert found.norm_saved_bytes == (0.0 if fused else 8.0)


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


@pytest.mark.parametrize(
    ("framework", "sharding", "gather"),
    [("nanotron", "ZeRO-1", 1.0), ("nanotron", "ZeRO-1 overlapped", 0.0), ("NeMo", "zero1", 0.0)],
)
def test_updated_parameters_are_gathered_after_the_update(
    framework: str, sharding: str, gather: float
) -> None:
    """nanotron's reductions run under the backward pass, as DDP's; its gather is at the end."""
    row = {"framework": framework, "dp_sharding": sharding, "n_gpus": "16", "gpu": "H100"}
    run = published_run(LLAMA | row)
    data = StepModel(run.setting, run.program).data_parallel(0)
    reduce, last = data.step_transfers
    hidden = data.end_seconds(1e3, 40) - max(
        reduce.seconds / 40, data.overlap_seconds(reduce.seconds, 1e3)
    )
    assert hidden / last.seconds == pytest.approx(gather, abs=0.5 if gather == 0 else 0.01)


def test_positions_are_whole_in_aleph_alphas_code_unless_it_says_otherwise() -> None:
    assert not published_run(LLAMA | {"sp": ""}).setting.spec.parallel.sequence
    assert published_run(LLAMA | {"sp": "1"}).setting.spec.parallel.sequence
    assert published_run(
        LLAMA | {"sp": "", "framework": "nanotron", "gpu": "H100"}
    ).setting.spec.parallel.sequence


def test_gradients_are_held_in_bf16_and_reduced_in_fp32() -> None:
    found = planned(tp="1")
    assert found.memory.gradients == 2 * found.per_rank
    # An all-reduce in fp32 and a gather in bf16: 8 + 2 bytes for each parameter.
    sent = found.communication["dp_replicate"]
    assert sent == pytest.approx(10 * found.per_rank * 63 / 64)


BANDWIDTH = 2.039e12 * 0.85  # of an A100-80GB, as large element-wise kernels reach it
TOKENS, WIDTH, LAYERS, VOCABULARY = 2048, 5120, 40, 32_000
ALONE = {"tp": "1", "n_gpus": "1", "gbs_seqs": "1", "dp_sharding": "none"}


def seconds(**changes: str) -> float:
    """Return seconds of a step of one micro-batch on one GPU."""
    return planned(**ALONE | changes).seconds.total


def test_op_by_op_norms_move_128_bytes_an_element() -> None:
    """36 forward, 92 backward, at 0.82 of the bandwidth; a fused norm reads and writes bf16."""
    elements = TOKENS * WIDTH * (2 * LAYERS + 1)
    more = seconds(attn_kernel="flash_attn2") - seconds()
    fused = 1.25 * (4 + 8) * elements / BANDWIDTH
    assert more == pytest.approx(128 * elements / 0.82 / BANDWIDTH - fused, rel=0.05)
    again = seconds(attn_kernel="flash_attn2", act_ckpt="every_layer") - seconds(
        act_ckpt="every_layer"
    )
    assert again - more == pytest.approx(36 * elements / 0.82 / BANDWIDTH, rel=0.2)


def test_torchs_softmax_moves_68_bytes_a_score() -> None:
    scores = 40 * TOKENS**2 * LAYERS
    more = seconds(attn_kernel="torch") - seconds(attn_kernel="fused")
    assert more == pytest.approx((36 + 32 - 4 - 6) * scores / BANDWIDTH, rel=0.02)


def test_the_loss_over_the_whole_vocabulary_takes_each_rank_as_long() -> None:
    """40 bytes a logit in both passes, whatever the number of tensor ranks, and the gather."""
    wide = {"vocab": "128000", "n_gpus": "8", "gbs_seqs": "1", "dp_sharding": "none"}
    run = published_run(LLAMA | wide | {"tp": "8"})
    gather, loss = StepModel(run.setting, run.program)._head_extra()
    logits = TOKENS * 128_000
    assert loss == pytest.approx(40 * logits * 7 / 8 / BANDWIDTH, rel=0.02)
    assert gather == pytest.approx(2 * logits * 7 / 8 / 230e9, rel=0.15)


def test_the_head_runs_again_and_takes_its_time() -> None:
    """Under full checkpointing: the head's forward matmul, 2 FLOPs a weight and token."""
    run = published_run(LLAMA | ALONE | {"act_ckpt": "every_layer", "vocab": "128000"})
    _, again = StepModel(run.setting, run.program)._head_extra()
    matmul = 2 * TOKENS * WIDTH * 128_000 / (312e12 * A100.efficiency.matmul)
    assert again == pytest.approx(matmul, rel=0.25)


@pytest.mark.parametrize(
    ("framework", "nbytes", "first"),
    [("Aleph Alpha scaling", 6, False), ("Megatron-LM", 3, True), ("nanotron", 10, True)],
)
def test_gradients_are_added_up_over_micro_batches(
    framework: str, nbytes: int, first: bool
) -> None:
    """autograd's .grad in bf16 holds the first micro-batch's as it comes; an fp32 buffer does not.

    Megatron's weight gradients add to it in the matmul: 4 + 4 bytes in place of 2, half hidden.
    """
    one, four = (
        planned(**ALONE | {"framework": framework, "gbs_seqs": n, "gpu": "A100-80GB"})
        for n in ("1", "4")
    )
    more = four.seconds.optimizer - one.seconds.optimizer
    assert more == pytest.approx(3 * nbytes * one.per_rank / BANDWIDTH, rel=0.01)
    moved = one.seconds.optimizer * BANDWIDTH / one.per_rank
    assert moved > 16 + 16 + (nbytes if first else 0)


def test_a_pipeline_of_modules_counts_embedding_norm_and_head() -> None:
    """Aleph Alpha's `scaling` divides 40 + 3 modules evenly; nanotron goes by their weights."""
    spec = published_run(LLAMA | {"tp": "1", "pp": "4", "vocab": "128000"}).setting.spec
    assert layers_of_stages(spec, "layers") == [10, 10, 10, 10]
    assert layers_of_stages(spec, "modules") == [10, 11, 11, 8]
    assert layers_of_stages(spec, "cost") == [11, 11, 10, 8]
    many = spec.replace({"model.n_layers": 8, "parallel.pipeline": 8})
    for split in ("modules", "cost"):
        assert sum(layers_of_stages(many, split)) == 8
        assert min(layers_of_stages(many, split)) == 1
    laid = published_run(LLAMA | {"tp": "1", "pp": "4", "vocab": "128000"}).program.stages
    assert laid == (10, 11, 11, 8)


def test_a_separate_gate_reduces_its_input_gradient_too() -> None:
    """Five all-reduces a layer without sequence parallelism, not four; none more with it."""
    for sp, ratio in (("0", 5 / 4), ("1", 1.0)):
        run = published_run(LLAMA | {"tp": "4", "sp": sp, "vocab": "32000"})
        together = replace(run.setting.profile, separate_gate=False)
        one, other = (
            StepModel(setting, run.program).seconds().tensor
            for setting in (run.setting, replace(run.setting, profile=together))
        )
        assert one / other == pytest.approx(ratio, rel=0.03)


def test_data_parallel_reduces_in_buckets_of_25_mb() -> None:
    """A bucket's latency is paid for each: 50 MB in fp32 of nanotron's bf16 gradients."""
    row = LLAMA | {"framework": "nanotron", "gpu": "H100", "tp": "8", "n_gpus": "512"}
    run = published_run(row | {"dp_sharding": "none"})
    data = StepModel(run.setting, run.program).data_parallel(0)
    (reduce,) = data.step_transfers
    buckets = math.ceil(4 * data.parameters.total / (50 * 2**20))
    one = run.setting.device
    sent = reduce.nbytes / buckets
    assert reduce.seconds == pytest.approx(
        buckets * collective_seconds(one, sent, 64, stride=8, rounds=2)
    )
    plain = profile_of(LLAMA | {"framework": "pytorch", "dp_sharding": "DDP"}, A100, llama=True)
    assert plain.bucket_bytes == 25 * 2**20


def test_nanotron_all_reduces_under_zero_1_and_keeps_gathered_inputs() -> None:
    row = LLAMA | {"framework": "nanotron", "gpu": "H100", "sp": "1", "tp": "4"}
    found = planned(**row)
    sent = found.communication["dp_replicate"]
    assert sent == pytest.approx((2 * 4 + 2) * found.per_rank * 15 / 16)
    again = planned(**row | {"framework": "Megatron-LM", "attn_kernel": "flash_attn2"})
    gathered = 2 * TOKENS * WIDTH * 2 * (1 - 1 / 4) * LAYERS
    assert found.memory.activations - again.memory.activations > 0.9 * gathered


def test_autocast_moves_more_than_plain_bf16() -> None:
    row = LLAMA | {"framework": "Composer FSDP", "dp_sharding": "FULL_SHARD", "tp": "1"}
    amp, plain = (profile_of(row | {"dtype": d}, A100, llama=True) for d in ("amp_bf16", "bf16"))
    assert amp.traffic > 1.2 * plain.traffic


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


@pytest.mark.parametrize(
    ("sizes", "layout", "measured"),
    [  # tokens/s/GPU of its scaling runs: tensor ranks of 3B, data ranks of 1B
        ((28, 3072), {"n_gpus": "2", "tp": "2", "mbs": "4", "gbs_seqs": "16", "sp": "1"}, 14_167),
        ((28, 3072), {"n_gpus": "4", "tp": "4", "mbs": "10", "gbs_seqs": "40", "sp": "1"}, 13_460),
        ((28, 3072), {"n_gpus": "4", "tp": "4", "mbs": "8", "gbs_seqs": "32", "sp": "0"}, 12_421),
        ((16, 2048), {"n_gpus": "8", "tp": "1", "mbs": "2", "gbs_seqs": "256"}, 40_150),
        ((16, 2048), {"n_gpus": "64", "tp": "1", "mbs": "2", "gbs_seqs": "256"}, 31_112),
        ((16, 2048), {"n_gpus": "256", "tp": "1", "mbs": "1", "gbs_seqs": "256"}, 15_700),
    ],
)
def test_nanotrons_scaling_runs(
    sizes: tuple[int, int], layout: dict[str, str], measured: float
) -> None:
    """Ultra-Scale Playbook: tp_sp_scaling, tp_scaling and dp_scaling on H100s, sequences of 4,096.

    Head count and vocabulary are those that its parameter counts (3.57B, 1.34B) leave.
    """
    layers, width = sizes
    row = LLAMA | {"framework": "nanotron", "gpu": "H100", "seq_len": "4096", "vocab": "65536"}
    row |= {"n_layers": str(layers), "d_model": str(width), "n_heads": "32", "d_ffn": "8192"}
    row |= {"attn_kernel": "flash_attn2"} | layout
    assert predict_row(row).tokens_per_second_per_gpu == pytest.approx(measured, rel=0.15)


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
    assert 0.58 <= efficiency.matmul_of(False) <= 0.63
    assert efficiency.matmul_of(True) == 0.68
    assert A100.efficiency.matmul_of(True) == A100.efficiency.matmul_of(False)
