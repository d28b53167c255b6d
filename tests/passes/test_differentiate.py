"""differentiate: the backward graph, written out."""

from __future__ import annotations

from llamac.passes.differentiate import Differentiate
from tests.passes.programs import program, same, text

PARAMETERS = """\
    parameter norm: f32[8] = ones
    parameter output: f32[11,8] = normal(0.1)
    parameter layers.*.w: f32[8,8] = normal(0.1)
    """


def derived(graph: str, region: str = "block") -> str:
    return text(Differentiate().apply(program(graph, PARAMETERS)), region)


def test_each_value_s_gradient_comes_from_its_reader() -> None:
    same(
        derived(
            """
            block.forward:
              input %x: f32[B,S,8]  # a.toml:1
              param layers.*.w as %w: f32[8,8]  # a.toml:4
              %y: f32[B,S,8] = linear(%x, layers.*.w)  # a.toml:2
              %out: f32[B,S,8] = silu(%y)  # a.toml:3
              return %out
            """
        ),
        """
        block.forward:
          input %x: f32[B,S,8] {save}  # a.toml:1
          param layers.*.w as %w: f32[8,8]  # a.toml:4
          %y: f32[B,S,8] = linear(%x, layers.*.w) {save}  # a.toml:2
          %out: f32[B,S,8] = silu(%y)  # a.toml:3
          return %out

        block.backward:
          cotangent %d_out: f32[B,S,8]
          saved %x: f32[B,S,8]  # a.toml:1
          saved %y: f32[B,S,8]  # a.toml:2
          param layers.*.w as %w: f32[8,8]  # a.toml:4
          %d_y: f32[B,S,8] = silu_backward(%d_out, %y)  # a.toml:3
          %d_w: f32[8,8] = linear_weight_gradient(%d_y, %x)  # a.toml:2
          %d_x: f32[B,S,8] = linear_input_gradient(%d_y, layers.*.w)  # a.toml:2
          return x=%d_x, layers.*.w=%d_w
        """,
    )


def test_a_frozen_parameter_gets_no_gradient_and_nothing_is_kept_for_it() -> None:
    same(
        text(
            Differentiate().apply(
                program(
                    """
                    block.forward:
                      input %x: f32[B,S,8]
                      param layers.*.w as %w: f32[8,8]
                      param layers.*.up as %up: f32[8,8]
                      %y: f32[B,S,8] = linear(%x, layers.*.w)
                      %out: f32[B,S,8] = linear(%y, layers.*.up)
                      return %out
                    """,
                    """\
                    parameter layers.*.up: f32[8,8] = zeros
                    frozen layers.*.w: f32[8,8] = normal(0.1)
                    """,
                )
            )
        ),
        """
        block.forward:
          input %x: f32[B,S,8]
          param layers.*.w as %w: f32[8,8]
          param layers.*.up as %up: f32[8,8]
          %y: f32[B,S,8] = linear(%x, layers.*.w) {save}
          %out: f32[B,S,8] = linear(%y, layers.*.up)
          return %out

        block.backward:
          cotangent %d_out: f32[B,S,8]
          saved %y: f32[B,S,8]
          param layers.*.w as %w: f32[8,8]
          param layers.*.up as %up: f32[8,8]
          %d_up: f32[8,8] = linear_weight_gradient(%d_out, %y)
          %d_y: f32[B,S,8] = linear_input_gradient(%d_out, layers.*.up)
          %d_x: f32[B,S,8] = linear_input_gradient(%d_y, layers.*.w)
          return x=%d_x, layers.*.up=%d_up
        """,
    )


def test_a_value_with_several_readers_gets_the_sum_of_what_they_send() -> None:
    same(
        derived(
            """
            block.forward:
              input %x: f32[B,S,8]
              %a: f32[B,S,8] = silu(%x)
              %b: f32[B,S,8] = relu(%x)
              %ab: f32[B,S,8] = mul(%a, %b)
              %out: f32[B,S,8] = add(%x, %ab)
              return %out
            """
        ),
        """
        block.forward:
          input %x: f32[B,S,8] {save}
          %a: f32[B,S,8] = silu(%x) {save}
          %b: f32[B,S,8] = relu(%x) {save}
          %ab: f32[B,S,8] = mul(%a, %b)
          %out: f32[B,S,8] = add(%x, %ab)
          return %out

        block.backward:
          cotangent %d_out: f32[B,S,8]
          saved %x: f32[B,S,8]
          saved %a: f32[B,S,8]
          saved %b: f32[B,S,8]
          %d_a: f32[B,S,8] = mul(%d_out, %b)
          %d_b: f32[B,S,8] = mul(%d_out, %a)
          %d_x_from_relu: f32[B,S,8] = relu_backward(%d_b, %x)
          %d_x_from_silu: f32[B,S,8] = silu_backward(%d_a, %x)
          %d_x_so_far: f32[B,S,8] = add(%d_out, %d_x_from_relu)
          %d_x: f32[B,S,8] = add(%d_x_so_far, %d_x_from_silu)
          return x=%d_x
        """,
    )


def test_a_parameter_read_twice_gets_one_gradient() -> None:
    result = Differentiate().apply(
        program(
            """
            block.forward:
              input %x: f32[B,S,8]
              param layers.*.w as %w: f32[8,8]
              %y: f32[B,S,8] = linear(%x, layers.*.w)
              %out: f32[B,S,8] = linear(%y, layers.*.w)
              return %out
            """,
            PARAMETERS,
        )
    )
    shown = text(result)
    assert shown.count("linear_weight_gradient") == 2
    assert shown.splitlines()[-1].startswith("  return x=%d_x, layers.*.w=%")
    assert shown.splitlines()[-2].partition(" = ")[2].startswith("add(")


def test_a_result_nobody_uses_sends_nothing_back() -> None:
    shown = derived(
        """
        block.forward:
          input %x: f32[B,S,8]
          input %r: f32[B,S,8]
          param norm as %norm: f32[8]
          _: f32[B,S,8], %y: f32[B,S,8] = add_rms_norm(%x, %r, norm, eps=1e-05)
          return %y
        """
    )
    assert "%y: f32[B,S,8] = add_rms_norm(%x, %r, norm, eps=1e-05) {save %y_total}" in shown
    assert " = add_rms_norm_backward(none, %d_y, %y_total, norm, eps=1e-05)" in shown
    assert shown.endswith("return x=%d_y_total, r=%d_y_total, norm=%d_norm")


def test_nothing_flows_to_integers_or_constants() -> None:
    shown = derived(
        """
        embed.forward:
          input %tokens: i64[B,S]
          constant %cos: f32[S,4]
          constant %sin: f32[S,4]
          param output as %output: f32[11,8]
          %x: f32[B,S,8] = embedding(%tokens, output)
          %heads: f32[B,S,1,8] = split_heads(%x, head_dim=8)
          %turned: f32[B,S,1,8] = rope(%heads, %cos, %sin, layout='interleaved')
          %y: f32[B,S,8] = merge_heads(%turned)
          return %y
        """,
        "embed",
    )
    assert shown.splitlines()[-1] == "  return output=%d_output"


def test_a_loss_that_finds_its_gradient_on_the_way_keeps_a_plain_form_for_evaluation() -> None:
    result = Differentiate().apply(
        program(
            """
            head.forward:
              input %x: f32[B,S,8]
              input %labels: i64[B,S]
              param output as %output: f32[11,8]
              %loss: f32[] = linear_cross_entropy(%x, output, %labels, chunk=3)
              return %loss

            logits.forward:
              input %x: f32[B,S,8]
              param output as %output: f32[11,8]
              %logits: f32[B,S,11] = linear(%x, output)
              return %logits
            """,
            PARAMETERS,
        )
    )
    same(
        text(result, "head"),
        """
        head.forward:
          input %x: f32[B,S,8]
          input %labels: i64[B,S]
          param output as %output: f32[11,8]
          %loss: f32[], %d_x_per_loss: f32[B,S,8], %d_output_per_loss: f32[11,8] = linear_cross_entropy_with_gradients(%x, output, %labels, chunk=3) {save %d_x_per_loss, %d_output_per_loss}
          return %loss

        head.backward:
          cotangent %d_loss: f32[]
          saved %d_x_per_loss: f32[B,S,8]
          saved %d_output_per_loss: f32[11,8]
          %d_x: f32[B,S,8] = scale(%d_x_per_loss, %d_loss)
          %d_output: f32[11,8] = scale(%d_output_per_loss, %d_loss)
          return x=%d_x, output=%d_output
        """,  # noqa: E501
    )
    assert " = linear_cross_entropy(%x, output, %labels, chunk=3)" in text(result, "evaluate")
    for inference in ("evaluate", "logits"):
        assert result.regions[inference].backward is None
