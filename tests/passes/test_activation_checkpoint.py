"""checkpoint: what each policy keeps, and where the rest is computed again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamac.ir.graph import is_op, op_of, ops_in, placeholders, producer
from llamac.ir.program import Program
from llamac.passes.activation_checkpoint import ActivationCheckpoint
from llamac.passes.differentiate import Differentiate
from llamac.passes.pass_list import compile_spec
from tests.compare import SHIPPED, shipped, shrunk
from tests.passes.programs import program, same, text

CHAIN = """
    block.forward:
      input %x: f32[B,S,8]
      param norm as %norm: f32[8]
      param layers.*.w as %w: f32[8,8]
      %normed: f32[B,S,8] = rms_norm(%x, norm, eps=1e-05)
      %wide: f32[B,S,8] = linear(%normed, layers.*.w)
      %hidden: f32[B,S,8] = silu(%wide)
      %heads: f32[B,S,2,4] = split_heads(%hidden, head_dim=4)
      %flat: f32[B,S,8] = merge_heads(%heads)
      %out: f32[B,S,8] = mul(%flat, %flat)
      return %out
    """


def checkpointed(policy: str) -> Program:
    given = program(
        CHAIN,
        """
        parameter norm: f32[8] = ones
        parameter layers.*.w: f32[8,8] = normal(0.1)
        """,
    )
    return ActivationCheckpoint(policy).apply(Differentiate().apply(given))


@pytest.mark.parametrize(
    ("policy", "saved"),
    [
        # %flat is a view of a view of %hidden: %hidden is kept in its place.
        ("none", ("x", "normed", "wide", "hidden")),
        ("selective", ("x", "wide")),
        ("full", ("x",)),
    ],
)
def test_what_is_kept(policy: str, saved: tuple[str, ...]) -> None:
    assert checkpointed(policy).regions["block"].saved == saved


def test_the_rest_is_computed_again_just_before_its_first_reader() -> None:
    shown = text(checkpointed("selective"))
    same(
        shown[shown.index("block.backward") :],
        """
        block.backward:
          cotangent %d_out: f32[B,S,8]
          saved %x: f32[B,S,8]
          saved %wide: f32[B,S,8]
          param norm as %norm: f32[8]
          param layers.*.w as %w: f32[8,8]
          %hidden: f32[B,S,8] = silu(%wide)
          %heads: f32[B,S,2,4] = split_heads(%hidden, head_dim=4)
          %flat: f32[B,S,8] = merge_heads(%heads)
          %d_flat: f32[B,S,8] = mul(%d_out, %flat)
          %d_flat_1: f32[B,S,8] = mul(%d_out, %flat)
          %d_flat_2: f32[B,S,8] = add(%d_flat, %d_flat_1)
          %d_heads: f32[B,S,2,4] = split_heads(%d_flat_2, head_dim=4)
          %d_hidden: f32[B,S,8] = merge_heads(%d_heads)
          %d_wide: f32[B,S,8] = silu_backward(%d_hidden, %wide)
          %normed: f32[B,S,8] = rms_norm(%x, norm, eps=1e-05)
          %d_w: f32[8,8] = linear_weight_gradient(%d_wide, %normed)
          %d_normed: f32[B,S,8] = linear_input_gradient(%d_wide, layers.*.w)
          %d_x: f32[B,S,8], %d_norm: f32[8] = rms_norm_backward(%d_normed, %x, norm, eps=1e-05)
          return x=%d_x, norm=%d_norm, layers.*.w=%d_w
        """,
    )


@pytest.mark.parametrize("policy", ["none", "selective", "full"])
@pytest.mark.parametrize("name", SHIPPED)
def test_no_view_is_ever_kept(name: str, policy: str) -> None:
    result = compile_spec(shrunk(name, f'recompute.policy="{policy}"'))
    for region in result.regions.values():
        sources = [producer(n)[0] for n in region.forward.graph.nodes if n.name in region.saved]
        assert len(sources) == len(region.saved)
        assert not [node for node in sources if is_op(node) and op_of(node).cost == "view"]


@pytest.mark.parametrize("name", SHIPPED)
def test_selective_repeats_no_matmul_and_no_attention(name: str) -> None:
    block = compile_spec(shrunk(name, 'recompute.policy="selective"')).regions["block"]
    assert block.backward is not None
    forward = {node.name for node in block.forward.graph.nodes}
    again = [n for n in ops_in(block.backward.graph) if n.name in forward]
    assert again, "norms and activations are computed again"
    assert not [node for node in again if op_of(node).cost == "save"]
    assert "attention" not in {op_of(node).name for node in ops_in(block.backward.graph)}


def test_selective_keeps_what_llama_kept() -> None:
    block = compile_spec(shrunk("65b")).regions["block"]
    assert set(block.saved) == {
        "x",
        "qkv_rotated",
        "attn_context",
        "logsumexp",
        "attn_out",
        "gate_up",
    }


def test_selective_keeps_at_most_twelve_times_batch_sequence_dim() -> None:
    spec = shipped("65b")
    result = compile_spec(spec)
    block = result.regions["block"]
    kinds = {n.name: n.meta["type"] for n in block.forward.graph.nodes if "type" in n.meta}
    elements = sum(kinds[name].elements(result.symbols) for name in block.saved)
    assert elements <= 12 * result.symbols["B"] * result.symbols["S"] * spec.model.dim


def test_full_keeps_each_region_s_input_alone() -> None:
    result = compile_spec(shrunk("65b", 'recompute.policy="full"'))
    for name in result.layers[:1]:
        region = result.regions[name]
        assert region.saved == ("x",)
        assert region.backward is not None
        assert [n.name for n in placeholders(region.backward.graph, "saved")] == ["x"]


def test_full_does_not_compute_the_loss_twice() -> None:
    head = compile_spec(shrunk("65b", 'recompute.policy="full"')).regions["head"]
    assert head.backward is not None
    assert not [n for n in ops_in(head.backward.graph) if op_of(n).name.startswith("linear_cross")]


def test_regions_without_a_backward_are_left_alone() -> None:
    result = checkpointed("selective")
    plain = replace(result, regions={"logits": replace(result.regions["block"], backward=None)})
    assert ActivationCheckpoint("full").apply(plain) is plain
