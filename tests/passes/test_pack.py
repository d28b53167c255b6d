"""pack: linears that read the same value become one; the parameter table keeps who is who."""

from __future__ import annotations

from llamac.ir.printer import print_program
from llamac.passes.pack import Pack
from tests.passes.programs import program, same, text

W13 = """\
    parameter layers.*.feed_forward.w1: f32[6,8] = normal(0.1)  # a.toml:1
    parameter layers.*.feed_forward.w3: f32[6,8] = normal(0.2)  # a.toml:2
    parameter norm: f32[8] = ones
    """


def attention_parameters(*table: tuple[str, str, str]) -> str:
    """Return declarations of a layer's parameters from (name, shape, initialisation)."""
    return "".join(
        f"parameter layers.*.attention.{name}: f32[{shape}] = {init}\n"
        for name, shape, init in table
    )


def test_gate_and_up_become_one_matmul() -> None:
    before = program(
        """
        block.forward:
          input %x: f32[B,S,8]
          param layers.*.feed_forward.w1 as %w1: f32[6,8]
          param layers.*.feed_forward.w3 as %w3: f32[6,8]
          %gate: f32[B,S,6] = linear(%x, layers.*.feed_forward.w1)  # a.toml:3
          %up: f32[B,S,6] = linear(%x, layers.*.feed_forward.w3)
          %hidden: f32[B,S,6] = mul(%gate, %up)
          return %hidden
        """,
        W13,
    )
    after = Pack().apply(before)
    same(
        text(after),
        """
        block.forward:
          input %x: f32[B,S,8]
          param layers.*.feed_forward.w13 as %w13: f32[12,8]
          %gate_up: f32[B,S,12] = linear(%x, layers.*.feed_forward.w13)  # a.toml:3
          %gate: f32[B,S,6], %up: f32[B,S,6] = split(%gate_up, sizes=(6, 6), dim=-1)  # a.toml:3
          %hidden: f32[B,S,6] = mul(%gate, %up)
          return %hidden
        """,
    )
    assert [line for line in print_program(after).splitlines() if line.startswith("param")] == [
        "parameter layers.*.feed_forward.w13: f32[12,8] = pack("
        "layers.*.feed_forward.w1[6] normal(0.1), layers.*.feed_forward.w3[6] normal(0.2))"
        "  # a.toml:1",
        "parameter norm: f32[8] = ones",
    ]


def test_queries_keys_and_values_become_one_matmul_with_their_biases() -> None:
    header = attention_parameters(
        ("wq", "8,8", "normal(0.1)"),
        ("wq_bias", "8", "zeros"),
        ("wk", "4,8", "normal(0.1)"),
        ("wk_bias", "4", "zeros"),
        ("wv", "4,8", "normal(0.1)"),
        ("wv_bias", "4", "zeros"),
    )
    before = program(
        """
        block.forward:
          input %x: f32[B,S,8]
          param layers.*.attention.wq as %wq: f32[8,8]
          param layers.*.attention.wq_bias as %wq_bias: f32[8]
          param layers.*.attention.wk as %wk: f32[4,8]
          param layers.*.attention.wk_bias as %wk_bias: f32[4]
          param layers.*.attention.wv as %wv: f32[4,8]
          param layers.*.attention.wv_bias as %wv_bias: f32[4]
          %q: f32[B,S,8] = linear(%x, layers.*.attention.wq, layers.*.attention.wq_bias)
          %k: f32[B,S,4] = linear(%x, layers.*.attention.wk, layers.*.attention.wk_bias)
          %v: f32[B,S,4] = linear(%x, layers.*.attention.wv, layers.*.attention.wv_bias)
          %kv: f32[B,S,8] = concat(%k, %v, dim=-1)
          %out: f32[B,S,8] = add(%q, %kv)
          return %out
        """,
        header,
    )
    after = Pack().apply(before)
    same(
        text(after),
        """
        block.forward:
          input %x: f32[B,S,8]
          param layers.*.attention.wqkv as %wqkv: f32[16,8]
          param layers.*.attention.wqkv_bias as %wqkv_bias: f32[16]
          %qkv: f32[B,S,16] = linear(%x, layers.*.attention.wqkv, layers.*.attention.wqkv_bias)
          %q: f32[B,S,8], %k: f32[B,S,4], %v: f32[B,S,4] = split(%qkv, sizes=(8, 4, 4), dim=-1)
          %kv: f32[B,S,8] = concat(%k, %v, dim=-1)
          %out: f32[B,S,8] = add(%q, %kv)
          return %out
        """,
    )
    assert after.parameter_count == before.parameter_count
    bias = after.parameters["layers.*.attention.wqkv_bias"]
    assert [(p.name.rpartition(".")[2], p.rows, p.init.kind) for p in bias.pieces] == [
        ("wq_bias", 8, "zeros"),
        ("wk_bias", 4, "zeros"),
        ("wv_bias", 4, "zeros"),
    ]


def test_linears_of_different_values_stay_apart() -> None:
    before = program(
        """
        block.forward:
          input %x: f32[B,S,8]
          param norm as %norm: f32[8]
          param layers.*.feed_forward.w1 as %w1: f32[6,8]
          param layers.*.feed_forward.w3 as %w3: f32[6,8]
          %y: f32[B,S,8] = rms_norm(%x, norm, eps=1e-05)
          %gate: f32[B,S,6] = linear(%x, layers.*.feed_forward.w1)
          %up: f32[B,S,6] = linear(%y, layers.*.feed_forward.w3)
          %hidden: f32[B,S,6] = mul(%gate, %up)
          return %hidden
        """,
        W13,
    )
    assert print_program(Pack().apply(before)) == print_program(before)


def test_a_linear_on_its_own_stays() -> None:
    before = program(
        """
        block.forward:
          input %x: f32[B,S,8]
          param layers.*.feed_forward.w1 as %w1: f32[6,8]
          %wide: f32[B,S,6] = linear(%x, layers.*.feed_forward.w1)
          return %wide
        """,
        W13,
    )
    assert print_program(Pack().apply(before)) == print_program(before)


def test_the_program_given_is_left_as_it_was() -> None:
    before = program(
        """
        block.forward:
          input %x: f32[B,S,8]
          param layers.*.feed_forward.w1 as %w1: f32[6,8]
          param layers.*.feed_forward.w3 as %w3: f32[6,8]
          %gate: f32[B,S,6] = linear(%x, layers.*.feed_forward.w1)
          %up: f32[B,S,6] = linear(%x, layers.*.feed_forward.w3)
          %hidden: f32[B,S,6] = mul(%gate, %up)
          return %hidden
        """,
        W13,
    )
    shown = print_program(before)
    Pack().apply(before)
    assert print_program(before) == shown


def test_adapters_of_some_packed_linears_share_their_first_matmul() -> None:
    header = attention_parameters(
        ("wq", "8,8", "normal(0.1)"),
        ("wk", "4,8", "normal(0.1)"),
        ("wv", "4,8", "normal(0.1)"),
        ("wq_lora_a", "2,8", "uniform(0.2)"),
        ("wq_lora_b", "8,2", "zeros"),
        ("wv_lora_a", "2,8", "uniform(0.2)"),
        ("wv_lora_b", "4,2", "zeros"),
    )
    before = program(
        """
        block.forward:
          input %x: f32[B,S,8]
          param layers.*.attention.wq as %wq: f32[8,8]
          param layers.*.attention.wk as %wk: f32[4,8]
          param layers.*.attention.wv as %wv: f32[4,8]
          param layers.*.attention.wq_lora_a as %wq_lora_a: f32[2,8]
          param layers.*.attention.wq_lora_b as %wq_lora_b: f32[8,2]
          param layers.*.attention.wv_lora_a as %wv_lora_a: f32[2,8]
          param layers.*.attention.wv_lora_b as %wv_lora_b: f32[4,2]
          %q_base: f32[B,S,8] = linear(%x, layers.*.attention.wq)
          %q_low_rank: f32[B,S,2] = linear(%x, layers.*.attention.wq_lora_a)
          %q_scaled: f32[B,S,2] = scale_by(%q_low_rank, factor=2.0)
          %q: f32[B,S,8] = add_linear(%q_base, %q_scaled, layers.*.attention.wq_lora_b)
          %k: f32[B,S,4] = linear(%x, layers.*.attention.wk)
          %v_base: f32[B,S,4] = linear(%x, layers.*.attention.wv)
          %v_low_rank: f32[B,S,2] = linear(%x, layers.*.attention.wv_lora_a)
          %v_scaled: f32[B,S,2] = scale_by(%v_low_rank, factor=2.0)
          %v: f32[B,S,4] = add_linear(%v_base, %v_scaled, layers.*.attention.wv_lora_b)
          %kv: f32[B,S,4] = mul(%k, %v)
          %both: f32[B,S,12] = concat(%q, %kv, dim=-1)
          return %both
        """,
        header,
    )
    after = Pack().apply(before)
    same(
        text(after),
        """
  block.forward:
    input %x: f32[B,S,8]
    param layers.*.attention.wqkv as %wqkv: f32[16,8]
    param layers.*.attention.wqkv_lora_a as %wqkv_lora_a: f32[4,8]
    param layers.*.attention.wq_lora_b as %wq_lora_b: f32[8,2]
    param layers.*.attention.wv_lora_b as %wv_lora_b: f32[4,2]
    %qkv: f32[B,S,16] = linear(%x, layers.*.attention.wqkv)
    %q_base: f32[B,S,8], %k: f32[B,S,4], %v_base: f32[B,S,4] = split(%qkv, sizes=(8, 4, 4), dim=-1)
    %qkv_low_rank: f32[B,S,4] = linear(%x, layers.*.attention.wqkv_lora_a)
    %qkv_scaled: f32[B,S,4] = scale_by(%qkv_low_rank, factor=2.0)
    %q_scaled: f32[B,S,2], %v_scaled: f32[B,S,2] = split(%qkv_scaled, sizes=(2, 2), dim=-1)
    %q: f32[B,S,8] = add_linear(%q_base, %q_scaled, layers.*.attention.wq_lora_b)
    %v: f32[B,S,4] = add_linear(%v_base, %v_scaled, layers.*.attention.wv_lora_b)
    %kv: f32[B,S,4] = mul(%k, %v)
    %both: f32[B,S,12] = concat(%q, %kv, dim=-1)
    return %both
        """,
    )
    packed = after.parameters["layers.*.attention.wqkv_lora_a"]
    assert [(one.name.rpartition(".")[2], one.rows) for one in packed.pieces] == [
        ("wq_lora_a", 2),
        ("wv_lora_a", 2),
    ]
