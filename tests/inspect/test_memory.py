"""What each policy keeps: the accounting that plans and reports rest on."""

from __future__ import annotations

import json

import pytest

from llamac.inspect.memory import (
    RegionMemory,
    activation_bytes,
    program_memory,
    readable_bytes,
    region_memory,
    stream_bytes,
)
from llamac.inspect.report import memory_json, memory_tables
from llamac.ir.graph import op_of, ops_in, type_of
from llamac.look.text_table import plain_text
from llamac.passes.analysis.liveness import saved_bytes
from tests.inspect.conftest import (
    COMPUTED,
    EVERYTHING,
    KEPT,
    LOGSUMEXP,
    TINY,
    block,
    compiled,
    last,
)

LLAMA = ("tiny", "7b", "65b", "llama2-70b")


def of_block(spec: str, policy: str = "selective") -> RegionMemory:
    program = last(spec, policy)
    return region_memory(program.regions["block"], program.symbols, len(program.layers))


def kept(memory: RegionMemory) -> list[str]:
    return [value.name for value in memory.values if value.saved_bytes]


def sbh(spec: str, policy: str = "selective") -> float:
    return of_block(spec, policy).saved / stream_bytes(last(spec, policy))


@pytest.mark.parametrize("spec", LLAMA)
def test_selective_keeps_what_llama_kept(spec: str) -> None:
    """The block's input, q, k and v in one rotated tensor, the attention's output and log-sum-exp,
    and the outputs of the linears that gradients need."""
    assert kept(of_block(spec)) == [
        "x",
        "qkv_rotated",
        "attn_context",
        "logsumexp",
        "attn_out",
        "gate_up",
    ]


@pytest.mark.parametrize("spec", [*LLAMA, "gpt3-block", "post-norm"])
def test_selective_runs_no_matmul_and_no_attention_again(spec: str) -> None:
    backward = block(spec).backward
    assert backward is not None
    ops = [op_of(node).name for node in ops_in(backward.graph)]
    assert "attention_backward" in ops
    assert not {"linear", "attention"}.intersection(ops)


@pytest.mark.parametrize("spec", ["7b", "65b"])
def test_selective_keeps_at_most_twelve_sbh_of_a_llama_block(spec: str) -> None:
    memory = of_block(spec)
    assert sbh(spec) <= 12
    assert memory.without_recomputation > 1.4 * memory.saved


def test_the_sum_for_65b_is_the_one_on_paper() -> None:
    """x 1, qkv 3, context 1, attn_out 1, gate and up 2·22016/8192, and 64 float32 log-sum-exps a
    position against 8192 bfloat16 elements."""
    assert sbh("65b") == pytest.approx(6 + 2 * 22016 / 8192 + 64 * 2 / 8192, abs=1e-12)


def test_grouped_keys_and_values_are_kept_at_their_own_size() -> None:
    by_name = {value.name: value for value in of_block("llama2-70b").values}
    assert by_name["qkv_rotated"].nbytes == 4 * 4096 * (64 + 2 * 8) * 128 * 2


def test_full_keeps_the_input_alone_and_none_keeps_everything() -> None:
    assert kept(of_block("7b", "full")) == ["x"]
    assert sbh("7b", "full") == 1
    whole = of_block("7b", "none")
    assert whole.saved == whole.without_recomputation


@pytest.mark.parametrize("spec", ["7b", "gpt3-block", "post-norm"])
def test_what_everything_would_come_to_does_not_depend_on_the_policy(spec: str) -> None:
    found = {
        of_block(spec, policy).without_recomputation for policy in ("none", "selective", "full")
    }
    assert len(found) == 1


def test_a_view_costs_nothing_and_a_kept_view_keeps_what_it_looks_into() -> None:
    program = compiled("tiny")["differentiate"]
    region = program.regions["block"]
    assert {"q", "k", "v", "merged", "attn_context"} <= set(region.saved)
    by_name = {value.name: value for value in region_memory(region, program.symbols).values}
    assert by_name["qkv_rotated"].status == "saved"
    assert by_name["q"].status == "view"
    assert by_name["q"].base == by_name["k"].base == "qkv_rotated"
    assert by_name["qkv_heads"].base == "qkv"
    assert [by_name[name].saved_bytes for name in ("q", "k", "v", "merged")] == [0, 0, 0, 0]
    assert saved_bytes(region, program.symbols) == sum(v.saved_bytes for v in by_name.values())


def test_every_forward_value_has_its_status() -> None:
    status = {value.name: value.status for value in of_block("tiny").values}
    assert status["hidden"] == status["h"] == status["attn_in"] == "recomputed"
    assert status["qkv"] == status["out"] == status["ffn_out"] == "not needed"
    assert status["gate_up"] == "saved"


def test_computed_bytes_leave_views_out() -> None:
    program = compiled("tiny")["fuse"]
    region = program.regions["block"]
    stream = stream_bytes(program)
    # The log-sum-exp has no name yet: the backward that asks for it is not written.
    assert activation_bytes(region, program.symbols) == (COMPUTED - LOGSUMEXP) * stream
    assert saved_bytes(region, program.symbols) == 0


def test_the_model_adds_its_regions_up() -> None:
    program = last("65b")
    memory = program_memory(program)
    counts = {region.name: region.count for region in memory.regions}
    assert counts == {"embed": 1, "block": 80, "head": 1}
    tokens, head = 8 * 2048 * 8, 1_061_158_912  # 80 blocks at 3.06 GB between them
    assert memory.saved == tokens + 80 * 3_057_647_616 + head == 245_673_099_264
    assert memory.parameters == 65_285_660_672
    assert memory.parameter_bytes == 130_571_321_344


def test_sizes_follow_the_symbols() -> None:
    program = last("tiny")
    region = program.regions["block"]
    once, twice = (saved_bytes(region, {"B": b, "S": 256}) for b in (1, 2))
    assert twice == 2 * once
    x = region.forward.graph.find_nodes(op="placeholder", target="x")[0]
    assert saved_bytes(region, {"B": 1, "S": 256}) > type_of(x).nbytes({"B": 1, "S": 256})


def test_the_table_reads_like_one() -> None:
    program = last("tiny")
    text = plain_text(memory_tables(program, "checkpoint"))
    kept, everything = (round(sbh * stream_bytes(program)) for sbh in (KEPT, EVERYTHING))
    layers = TINY.n_layers
    of_a_layer = (4 * TINY.dim + 3 * TINY.ffn_dim + 2) * TINY.dim
    parameters = 2 * TINY.vocab_size * TINY.dim + layers * of_a_layer + TINY.dim
    assert "1 sbh = batch·seq·dim elements = 2.00 MiB" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "qkv_rotated f32[B,S,24,32] 6.00 MiB 3.00 8.00 MiB saved" in lines
    assert "q f32[B,S,8,32] 2.00 MiB 1.00 8.00 MiB view of qkv_rotated" in lines
    assert f"saved a layer: {readable_bytes(kept)} = {KEPT:.2f} sbh" in lines
    without = f"without recomputation: {readable_bytes(everything)} = {EVERYTHING:.2f} sbh"
    assert without in lines
    model = (readable_bytes(layers * kept), layers * KEPT, readable_bytes(layers * everything))
    row = "block × {} {} {:.1f} {}".format(layers, *model)
    assert any(line.startswith(row) for line in lines)
    assert f"parameters: {parameters:,} of f32, {readable_bytes(4 * parameters)}" in lines


def test_one_region_of_the_table_has_no_total() -> None:
    text = plain_text(memory_tables(last("tiny"), "checkpoint", "head"))
    assert "d_output_per_loss" in text
    assert "block" not in text
    assert "total" not in text


def test_json_holds_the_same_numbers_as_integers() -> None:
    program = last("tiny")
    found = json.loads(json.dumps(memory_json(program, "checkpoint")))
    memory = program_memory(program)
    assert found["total"]["saved_bytes"] == memory.saved
    assert found["sbh_bytes"] == 8 * 256 * 256 * 4
    (one,) = (region for region in found["regions"] if region["name"] == "block")
    assert one["saved_bytes"] == sum(value["kept_bytes"] for value in one["values"])
    assert one["saved_sbh"] == pytest.approx(KEPT, abs=1e-12)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.50 KiB"),
        (2**20, "1.00 MiB"),
        (999 * 2**30, "999 GiB"),
    ],
)
def test_bytes_are_written_with_three_digits(nbytes: int, text: str) -> None:
    assert readable_bytes(nbytes) == text
