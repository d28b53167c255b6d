"""fuse: each rewrite, and when it must keep its hands off."""

from __future__ import annotations

from llamac.passes.fuse import Fuse
from tests.passes.programs import program, same, text

PARAMETERS = """\
    parameter norm: f32[8] = ones
    parameter gain: f32[4] = ones
    parameter output: f32[11,8] = normal(0.1)
    """


def fused(graph: str, region: str = "block") -> str:
    return text(Fuse(loss_chunk=3).apply(program(graph, PARAMETERS)), region)


def untouched(graph: str, region: str = "block") -> None:
    same(fused(graph, region), graph)


# -- add_rms_norm ----------------------------------------------------------------------------------


def test_a_norm_takes_the_addition_before_it() -> None:
    same(
        fused(
            """
            block.forward:
              input %x: f32[B,S,8]
              input %r: f32[B,S,8]
              param norm as %norm: f32[8]
              %h: f32[B,S,8] = add(%x, %r)  # a.toml:1
              %y: f32[B,S,8] = rms_norm(%h, norm, eps=1e-05)  # a.toml:2
              %out: f32[B,S,8] = mul(%h, %y)
              return %out
            """
        ),
        """
        block.forward:
          input %x: f32[B,S,8]
          input %r: f32[B,S,8]
          param norm as %norm: f32[8]
          %h: f32[B,S,8], %y: f32[B,S,8] = add_rms_norm(%x, %r, norm, eps=1e-05)  # a.toml:2
          %out: f32[B,S,8] = mul(%h, %y)
          return %out
        """,
    )


def test_a_sum_that_only_the_norm_reads_is_not_named() -> None:
    same(
        fused(
            """
            block.forward:
              input %x: f32[B,S,8]
              input %r: f32[B,S,8]
              param norm as %norm: f32[8]
              %h: f32[B,S,8] = add(%x, %r)
              %y: f32[B,S,8] = rms_norm(%h, norm, eps=1e-05)
              return %y
            """
        ),
        """
        block.forward:
          input %x: f32[B,S,8]
          input %r: f32[B,S,8]
          param norm as %norm: f32[8]
          _: f32[B,S,8], %y: f32[B,S,8] = add_rms_norm(%x, %r, norm, eps=1e-05)
          return %y
        """,
    )


def test_the_fused_norm_stands_before_whoever_read_the_sum_first() -> None:
    same(
        fused(
            """
            block.forward:
              input %x: f32[B,S,8]
              input %r: f32[B,S,8]
              param norm as %norm: f32[8]
              %h: f32[B,S,8] = add(%x, %r)
              %early: f32[B,S,8] = silu(%h)
              %y: f32[B,S,8] = rms_norm(%h, norm, eps=1e-05)
              %out: f32[B,S,8] = add(%early, %y)
              return %out
            """
        ),
        """
        block.forward:
          input %x: f32[B,S,8]
          input %r: f32[B,S,8]
          param norm as %norm: f32[8]
          %h: f32[B,S,8], %y: f32[B,S,8] = add_rms_norm(%x, %r, norm, eps=1e-05)
          %early: f32[B,S,8] = silu(%h)
          %out: f32[B,S,8] = add(%early, %y)
          return %out
        """,
    )


def test_a_norm_of_something_else_stays() -> None:
    untouched(
        """
        block.forward:
          input %x: f32[B,S,8]
          param norm as %norm: f32[8]
          %h: f32[B,S,8] = mul(%x, %x)
          %y: f32[B,S,8] = rms_norm(%h, norm, eps=1e-05)
          return %y
        """
    )


# -- swiglu ----------------------------------------------------------------------------------------


def test_silu_times_another_is_swiglu() -> None:
    same(
        fused(
            """
            block.forward:
              input %gate: f32[B,S,8]
              input %up: f32[B,S,8]
              %activated: f32[B,S,8] = silu(%gate)
              %hidden: f32[B,S,8] = mul(%activated, %up)
              return %hidden
            """
        ),
        """
        block.forward:
          input %gate: f32[B,S,8]
          input %up: f32[B,S,8]
          %hidden: f32[B,S,8] = swiglu(%gate, %up)
          return %hidden
        """,
    )


def test_swiglu_of_the_halves_of_one_value_reads_it_whole() -> None:
    same(
        fused(
            """
            block.forward:
              input %x: f32[B,S,8]
              %gate: f32[B,S,4], %up: f32[B,S,4] = split(%x, sizes=(4, 4), dim=-1)
              %activated: f32[B,S,4] = silu(%gate)
              %hidden: f32[B,S,4] = mul(%activated, %up)
              return %hidden
            """
        ),
        """
        block.forward:
          input %x: f32[B,S,8]
          %hidden: f32[B,S,4] = packed_swiglu(%x)
          return %hidden
        """,
    )


def test_the_halves_in_the_wrong_order_are_not_packed_swiglu() -> None:
    same(
        fused(
            """
            block.forward:
              input %x: f32[B,S,8]
              %up: f32[B,S,4], %gate: f32[B,S,4] = split(%x, sizes=(4, 4), dim=-1)
              %activated: f32[B,S,4] = silu(%gate)
              %hidden: f32[B,S,4] = mul(%activated, %up)
              return %hidden
            """
        ),
        """
        block.forward:
          input %x: f32[B,S,8]
          %up: f32[B,S,4], %gate: f32[B,S,4] = split(%x, sizes=(4, 4), dim=-1)
          %hidden: f32[B,S,4] = swiglu(%gate, %up)
          return %hidden
        """,
    )


def test_a_half_that_someone_else_reads_is_not_hidden_in_packed_swiglu() -> None:
    same(
        fused(
            """
            block.forward:
              input %x: f32[B,S,8]
              %gate: f32[B,S,4], %up: f32[B,S,4] = split(%x, sizes=(4, 4), dim=-1)
              %activated: f32[B,S,4] = silu(%gate)
              %hidden: f32[B,S,4] = mul(%activated, %up)
              %out: f32[B,S,4] = add(%hidden, %up)
              return %out
            """
        ),
        """
        block.forward:
          input %x: f32[B,S,8]
          %gate: f32[B,S,4], %up: f32[B,S,4] = split(%x, sizes=(4, 4), dim=-1)
          %hidden: f32[B,S,4] = swiglu(%gate, %up)
          %out: f32[B,S,4] = add(%hidden, %up)
          return %out
        """,
    )


def test_a_silu_with_other_readers_stays() -> None:
    untouched(
        """
        block.forward:
          input %gate: f32[B,S,8]
          input %up: f32[B,S,8]
          %activated: f32[B,S,8] = silu(%gate)
          %hidden: f32[B,S,8] = mul(%activated, %up)
          %out: f32[B,S,8] = add(%hidden, %activated)
          return %out
        """
    )


def test_gelu_times_another_is_not_swiglu() -> None:
    untouched(
        """
        block.forward:
          input %gate: f32[B,S,8]
          input %up: f32[B,S,8]
          %activated: f32[B,S,8] = gelu(%gate)
          %hidden: f32[B,S,8] = mul(%activated, %up)
          return %hidden
        """
    )


# -- rope ------------------------------------------------------------------------------------------

SPLIT_QKV = """
        block.forward:
          input %qkv: f32[B,S,16]
          constant %cos: f32[S,2]
          constant %sin: f32[S,2]
          %q: f32[B,S,8], %k: f32[B,S,4], %v: f32[B,S,4] = split(%qkv, sizes=(8, 4, 4), dim=-1)
          %q_heads: f32[B,S,2,4] = split_heads(%q, head_dim=4)
          %k_heads: f32[B,S,1,4] = split_heads(%k, head_dim=4)
          %v_heads: f32[B,S,1,4] = split_heads(%v, head_dim=4)
"""
NORMS = """\
          %q_normed: f32[B,S,2,4] = head_rms_norm(%q_heads, gain, eps=1e-05)
          %k_normed: f32[B,S,1,4] = head_rms_norm(%k_heads, gain, eps=1e-05)
"""
ATTEND = """\
attention({}, scale=0.5, kernel='math')
          return %context
"""


def test_queries_and_keys_are_turned_while_packed() -> None:
    before = (
        SPLIT_QKV
        + """\
          %q_rotated: f32[B,S,2,4] = rope(%q_heads, %cos, %sin, layout='half_split')
          %k_rotated: f32[B,S,1,4] = rope(%k_heads, %cos, %sin, layout='half_split')
          %context: f32[B,S,2,4], _: f32[B,2,S] = """
        + ATTEND.format("%q_rotated, %k_rotated, %v_heads")
    )
    same(
        fused(before),
        """
        block.forward:
          input %qkv: f32[B,S,16]
          constant %cos: f32[S,2]
          constant %sin: f32[S,2]
          %qkv_heads: f32[B,S,4,4] = split_heads(%qkv, head_dim=4)
          %qkv_rotated: f32[B,S,4,4] = rope(%qkv_heads, %cos, %sin, heads=3, layout='half_split')
          %q: f32[B,S,2,4], %k: f32[B,S,1,4], %v: f32[B,S,1,4] = split(%qkv_rotated, sizes=(2, 1, 1), dim=2)
          %context: f32[B,S,2,4], _: f32[B,2,S] = attention(%q, %k, %v, scale=0.5, kernel='math')
          return %context
        """,  # noqa: E501
    )


def turn(which: str, layout: str, **more: int) -> str:
    heads = 2 if which == "q" else 1
    rest = "".join(f", {key}={value}" for key, value in more.items())
    call = f"rope(%{which}_heads, %cos, %sin, layout='{layout}'{rest})"
    return f"          %{which}_rotated: f32[B,S,{heads},4] = {call}\n"


def test_keys_that_are_not_turned_stay() -> None:
    untouched(
        SPLIT_QKV
        + turn("q", "half_split")
        + "          %context: f32[B,S,2,4], _: f32[B,2,S] = "
        + ATTEND.format("%q_rotated, %k_heads, %v_heads")
    )


def test_queries_and_keys_that_are_normalised_first_stay_apart() -> None:
    turned = turn("q", "half_split") + turn("k", "half_split")
    untouched(
        SPLIT_QKV.replace(
            "[S,2]\n          %q", "[S,2]\n          param gain as %gain: f32[4]\n          %q"
        )
        + NORMS
        + turned.replace("_heads,", "_normed,")
        + "          %context: f32[B,S,2,4], _: f32[B,2,S] = "
        + ATTEND.format("%q_rotated, %k_rotated, %v_heads")
    )


def test_queries_and_keys_turned_differently_stay() -> None:
    untouched(
        SPLIT_QKV
        + turn("q", "half_split")
        + turn("k", "interleaved")
        + "          %context: f32[B,S,2,4], _: f32[B,2,S] = "
        + ATTEND.format("%q_rotated, %k_rotated, %v_heads")
    )


def test_heads_that_are_turned_in_part_stay() -> None:
    untouched(
        SPLIT_QKV
        + turn("q", "half_split", heads=1)
        + turn("k", "half_split", heads=1)
        + "          %context: f32[B,S,2,4], _: f32[B,2,S] = "
        + ATTEND.format("%q_rotated, %k_rotated, %v_heads")
    )


def test_heads_that_someone_reads_unturned_stay() -> None:
    untouched(
        SPLIT_QKV
        + turn("q", "half_split")
        + turn("k", "half_split")
        + "          %both: f32[B,S,2,4] = add(%q_rotated, %q_heads)\n"
        + "          %context: f32[B,S,2,4], _: f32[B,2,S] = "
        + ATTEND.format("%both, %k_rotated, %v_heads")
    )


# -- linear_cross_entropy --------------------------------------------------------------------------


def test_the_loss_takes_the_output_projection() -> None:
    same(
        fused(
            """
            head.forward:
              input %x: f32[B,S,8]
              input %labels: i64[B,S]
              param output as %output: f32[11,8]
              %logits: f32[B,S,11] = linear(%x, output)  # a.toml:1
              %loss: f32[] = cross_entropy(%logits, %labels)  # a.toml:2
              return %loss
            """,
            "head",
        ),
        """
        head.forward:
          input %x: f32[B,S,8]
          input %labels: i64[B,S]
          param output as %output: f32[11,8]
          %loss: f32[] = linear_cross_entropy(%x, output, %labels, chunk=3)  # a.toml:2
          return %loss
        """,
    )


def test_logits_without_a_loss_stay() -> None:
    untouched(
        """
        logits.forward:
          input %x: f32[B,S,8]
          param output as %output: f32[11,8]
          %logits: f32[B,S,11] = linear(%x, output)
          return %logits
        """,
        "logits",
    )


def test_logits_that_someone_else_reads_stay() -> None:
    untouched(
        """
        head.forward:
          input %x: f32[B,S,8]
          input %labels: i64[B,S]
          param output as %output: f32[11,8]
          %logits: f32[B,S,11] = linear(%x, output)
          %twice: f32[B,S,11] = add(%logits, %logits)
          %other: f32[] = cross_entropy(%twice, %labels)
          %loss: f32[] = cross_entropy(%logits, %labels)
          %both: f32[] = add(%loss, %other)
          return %both
        """,
        "head",
    )


def test_logits_with_a_bias_stay() -> None:
    untouched(
        """
        head.forward:
          input %x: f32[B,S,8]
          input %labels: i64[B,S]
          input %bias: f32[11]
          param output as %output: f32[11,8]
          %logits: f32[B,S,11] = linear(%x, output, %bias)
          %loss: f32[] = cross_entropy(%logits, %labels)
          return %loss
        """,
        "head",
    )
