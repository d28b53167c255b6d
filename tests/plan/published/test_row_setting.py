"""Rows of published measurements: what each column may say, and what follows where it is empty."""

from __future__ import annotations

import pytest

from llamac.plan.cost.framework import FRAMEWORKS
from llamac.plan.device.device import load_device
from llamac.plan.published.decoder import decoder_of
from llamac.plan.published.framework_rules import (
    checkpointing,
    materialises_scores,
    profile_of,
    sharding_of,
)
from llamac.plan.published.row_setting import published_run
from llamac.plan.published.rows import RowError, count, number

GPT = {
    "framework": "Megatron-LM",
    "model": "gpt-1.3b",
    "n_layers": "24",
    "d_model": "2048",
    "n_heads": "16",
    "d_ffn": "8192",
    "mlp": "gelu",
    "vocab": "51200",
    "tied_emb": "1",
    "gpu": "A100-80GB",
    "n_gpus": "8",
    "dtype": "fp16",
    "seq_len": "1024",
    "mbs": "4",
    "gbs_seqs": "64",
}
LLAMA = GPT | {
    "framework": "torchtitan FSDP2",
    "model": "llama3-8b",
    "d_model": "1024",
    "n_heads": "16",
    "n_kv_heads": "4",
    "d_ffn": "3584",
    "mlp": "swiglu",
    "tied_emb": "0",
    "dtype": "bf16",
    "dp_sharding": "FSDP2",
}


@pytest.mark.parametrize(
    ("given", "means"),
    [("1,024", 1024), ("4M", 4e6), ("1.3B", 1.3e9), ("2e12", 2e12), ("~8", 8), ("16 (8x2)", 16)]
    + [(empty, None) for empty in ("", "-", "n/a", "NaN", "?")],
)
def test_numbers_as_people_write_them(given: str, means: float | None) -> None:
    assert number({"x": given}, "x") == means


def test_a_number_that_is_none_names_its_column() -> None:
    with pytest.raises(RowError, match="column tp is 'two': give a number"):
        count({"tp": "two"}, "tp")
    with pytest.raises(RowError, match=r"column tp is '1\.5': give a whole number"):
        count({"tp": "1.5"}, "tp")


def test_a_gpt_has_its_paper_s_parts() -> None:
    model = published_run(GPT | {"n_heads": "32"}).setting.spec.model
    assert (model.dim, model.head_dim, model.ffn_dim, model.vocab_size) == (2048, 64, 8192, 51200)
    assert (model.activation, model.norm, model.position) == ("gelu", "layernorm", "learned")
    assert model.bias
    assert model.tied_embeddings


def test_a_llama_has_its_paper_s_parts() -> None:
    run = published_run(LLAMA)
    model = run.setting.spec.model
    assert (model.activation, model.norm, model.position) == ("swiglu", "rmsnorm", "rope")
    assert not model.bias
    assert run.setting.sharding == "zero3"
    assert run.program.layers == ("block",) * 24


@pytest.mark.parametrize(
    ("changes", "micro", "times", "data"),
    [
        ({}, 4, 2, 8),
        ({"tp": "2", "pp": "2"}, 4, 8, 2),
        ({"tp": "2", "dp": "4", "n_gpus": ""}, 4, 4, 4),
        ({"mbs": "", "grad_accum": "4"}, 2, 4, 8),
        ({"gbs_seqs": "", "gbs_tokens": "65536"}, 4, 2, 8),
        ({"gbs_seqs": "", "grad_accum": ""}, 4, 1, 8),
        ({"gbs_seqs": "", "pp": "2"}, 4, 8, 4),
        ({"pp": "4", "gbs_seqs": "16"}, 4, 2, 2),  # fewer micro-batches than stages
    ],
)
def test_batches_follow_from_what_is_given(
    changes: dict[str, str], micro: int, times: int, data: int
) -> None:
    setting = published_run(GPT | changes).setting
    parallel = setting.spec.parallel
    assert setting.spec.batch.micro_batch == micro
    assert setting.rank_micro_batches == times
    assert parallel.data_shard * parallel.data_replicate == data
    assert setting.tokens == micro * times * data * 1024


def test_a_torchtitan_batch_is_cut_into_as_many_parts_as_stages() -> None:
    setting = published_run(LLAMA | {"pp": "4", "mbs": "8", "grad_accum": "1"}).setting
    assert (setting.spec.batch.micro_batch, setting.rank_micro_batches) == (2, 4)


def test_empty_shapes_are_those_that_make_the_parameters() -> None:
    row = LLAMA | dict.fromkeys(("n_kv_heads", "d_ffn", "vocab", "tied_emb", "mlp"), "")
    sizes = {"n_layers": "32", "d_model": "4096", "n_heads": "32", "model": "llama2-7b"}
    shape = decoder_of(row | sizes | {"n_params": "6.7B"})
    assert (shape.kv_heads, shape.ffn, shape.vocab, shape.gated) == (32, 11008, 32_000, True)


def test_parameters_that_do_not_agree_are_told() -> None:
    with pytest.raises(RowError, match="parameters, n_params says 175,000,000,000"):
        decoder_of(GPT | {"n_params": "175B"})


@pytest.mark.parametrize(
    ("given", "framework", "policy", "core", "share"),
    [
        ("none", "", "none", False, 0),
        ("", "", "none", False, 0),
        ("full", "", "none", False, 1),
        ("yes", "", "none", False, 1),
        ("selective", "Megatron-LM", "none", True, 0),
        ("selective(attn core)", "Megatron-LM", "none", True, 0),
        ("selective", "FSDP", "selective", False, 0),
        ("selective-op", "torchtitan", "selective", False, 3 / 8),
        ("selective-layer(every 2)", "torchtitan", "none", False, 1 / 2),
        ("block 3", "NeMo", "none", False, 3 / 12),
        ("25%", "", "none", False, 1 / 4),
        ("3 of 4 layers", "", "none", False, 3 / 4),
        ("full (uniform, 1 layer)", "Megatron-LM", "none", False, 1),
        ("every_layer", "", "none", False, 1),
        ("every_pipe_stage", "", "none", False, 1),
        ("no_checkpointing", "", "none", False, 0),
        ("without checkpointing", "", "none", False, 0),
        ("full=false", "", "none", False, 0),
        ("none(flash)", "", "none", False, 0),
    ],
)
def test_checkpointing(given: str, framework: str, policy: str, core: bool, share: float) -> None:
    found = checkpointing({"act_ckpt": given, "framework": framework})
    assert (found.policy, found.core, found.share(12)) == (policy, core, share)


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("none", "none"),
        ("DDP", "none"),
        ("ZeRO-1", "zero1"),
        ("dist opt", "zero1"),
        ("distributed optimizer", "zero1"),
        ("zero_2", "zero2"),
        ("SHARD_GRAD_OP/mp=DEFAULT", "zero2"),
        ("ZeRO stage 3", "zero3"),
        ("FULL_SHARD/mp=PURE", "zero3"),
        ("HSDP", "zero3"),
    ],
)
def test_sharding(given: str, means: str) -> None:
    assert sharding_of({"dp_sharding": given}) == means


@pytest.mark.parametrize(
    ("framework", "notes", "profile"),
    [
        ("Megatron-LM", "", "megatron"),
        ("NeMo", "", "megatron-core"),
        ("llm-foundry", "", "eager"),
        ("torchtitan FSDP2", "", "eager"),
        ("torchtitan FSDP2", "torch.compile", "compiled"),
        ("torchtitan FSDP2", "eager", "eager"),
        ("HF Trainer", "", "eager"),
        ("MaxText", "", "compiled"),
    ],
)
def test_frameworks_have_their_habits(framework: str, notes: str, profile: str) -> None:
    found = profile_of({"framework": framework, "notes": notes}, load_device("a100-80gb"), False)
    expected = FRAMEWORKS[profile]
    assert (found.host, found.traffic, found.fused) == (
        expected.host,
        expected.traffic,
        expected.fused,
    )


@pytest.mark.parametrize(
    ("kernel", "gpu", "written"),
    [
        ("unfused fused-softmax", "A100", True),
        ("no flash", "A100", True),
        ("flash-attn 2", "A100", False),
        ("SDPA flash", "H100", False),
        ("", "A100", False),
        ("", "V100", True),
    ],
)
def test_whether_scores_are_written_out(kernel: str, gpu: str, written: bool) -> None:
    assert materialises_scores({"attn_kernel": kernel, "gpu": gpu}) == written


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "mixtral-8x7b"}, "mixtures of experts"),
        ({"family": "t5"}, "models other than decoders"),
        ({"dp_sharding": "ZeRO-Infinity offload"}, "state kept off the GPU"),
        ({"gpu": "TPU v4"}, "no device"),
        ({"seq_len": ""}, "column seq_len is empty"),
        ({"tp": "3"}, "no such model or layout"),
    ],
)
def test_what_no_spec_can_say_is_refused(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        published_run(GPT | changes)


def test_the_rows_network_is_taken() -> None:
    device = published_run(GPT | {"internode_bw_gbps_per_gpu": "100", "gpus_per_node": "4"}).setting
    assert device.device.gpus_per_node == 4
    assert 0.8 * 12.5e9 < device.device.network.bandwidth < 12.5e9
