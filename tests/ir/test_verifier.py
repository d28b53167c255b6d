"""Every rule of the verifier, broken by hand: the error stands inside the IR, under its line."""

from __future__ import annotations

from dataclasses import replace
from textwrap import dedent

import pytest
from torch import fx

from llamac.ir.graph import output_of
from llamac.ir.parser import parse_program
from llamac.ir.program import Program
from llamac.ir.types import TensorType
from llamac.ir.verifier import RULES, VerificationError, verify
from llamac.passes.activation_checkpoint import ActivationCheckpoint
from llamac.passes.differentiate import Differentiate

SOUND = """\
program example
symbols B=2 S=4
parameter layers.*.w: f32[8,8] = normal(0.1)
layers 2 × block

block.forward:
  input %x: f32[B,S,8]
  param layers.*.w as %w: f32[8,8]
  %y: f32[B,S,8] = linear(%x, layers.*.w)
  %out: f32[B,S,8] = silu(%y)
  return %out
"""


def sound(policy: str = "none") -> Program:
    return ActivationCheckpoint(policy).apply(Differentiate().apply(parse_program(SOUND)))


def node(program: Program, name: str, direction: str = "forward") -> fx.Node:
    module = getattr(program.regions["block"], direction)
    return next(node for node in module.graph.nodes if node.name == name)


def with_block(program: Program, **changes) -> Program:
    return program.with_region(replace(program.regions["block"], **changes))


def refused(program: Program) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(program)
    assert caught.value.exit_code == 3
    return str(caught.value)


def assert_pointed(shown: str, line: str, message: str) -> None:
    """The message stands under this line, and the arrow is as long as the line."""
    lines = shown.splitlines()
    (at,) = [index for index, found in enumerate(lines) if found.strip().startswith(line)]
    pointer = lines[at + 1]
    indent = len(lines[at]) - len(lines[at].lstrip())
    assert pointer == f"{' ' * indent}{'^' * (len(lines[at]) - indent)} {message}", shown
    assert lines[0].endswith("ward:")  # the whole graph is shown
    assert lines[-1].strip().startswith(("return", "^"))


def test_the_sound_program_is_sound() -> None:
    for policy in ("none", "selective", "full"):
        verify(sound(policy))


def test_every_rule_is_broken_below() -> None:
    names = {rule.__name__ for rule in RULES}
    rules = {"_single_assignment", "_types", "_async_pairs", "_parameters", "_saved", "_caches"}
    rules.add("_gradients")
    assert names == rules


def test_a_value_used_before_it_is_defined() -> None:
    program = sound()
    node(program, "out").append(node(program, "y"))  # %y moves behind its reader
    assert_pointed(
        refused(program), "%out: f32[B,S,8] = silu(%y)", "%y is used before it is defined"
    )


def test_a_type_that_is_not_what_the_op_gives() -> None:
    program = sound()
    node(program, "out").meta["type"] = TensorType("f32", ("B", "S", 9))
    assert_pointed(
        refused(program),
        "%out: f32[B,S,9] = silu(%y)",
        "recorded type f32[B,S,9], but the op infers f32[B,S,8]",
    )


def test_operands_that_the_op_refuses() -> None:
    program = sound()
    node(program, "x").meta["type"] = TensorType("f32", ("B", "S", 7))
    assert_pointed(
        refused(program),
        "%y: f32[B,S,8] = linear(",
        "linear(f32[B,S,7], f32[8,8]): x has 7 features, the weight takes 8",
    )


def test_an_error_in_the_backward_graph_is_shown_there() -> None:
    program = sound()
    node(program, "d_y", "backward").meta["type"] = TensorType("bf16", ("B", "S", 8))
    shown = refused(program)
    assert shown.startswith("block.backward:")
    assert_pointed(
        shown,
        "%d_y: bf16[B,S,8] = silu_backward(",
        "recorded type bf16[B,S,8], but the op infers f32[B,S,8]",
    )


def test_a_result_of_several_that_lost_its_type() -> None:
    text = SOUND.replace("layers 2 × block\n", "").replace(
        "%out: f32[B,S,8] = silu(%y)",
        "%out: f32[B,S,4], _: f32[B,S,4] = split(%y, sizes=(4, 4), dim=-1)",
    )
    program = parse_program(text)
    verify(program)
    node(program, "out").meta["type"] = TensorType("f32", ("B", "S", 5))
    assert_pointed(refused(program), "%out: f32[B,S,4], _: ", "a result has no type")


STARTED = """\
program example
symbols B=2 S=4 S/tp=2
mesh tp=2

block.forward:
  input %x: f32[B,S/tp,8]@tp:S(1)
  %out_started: f32[B,S,8] = all_gather_start(%x, axis='tp', dim=1, size=2)
  %out: f32[B,S,8] = all_gather_wait(%out_started, axis='tp', dim=1)
  return %out
"""


@pytest.mark.parametrize(
    ("line", "instead", "pointed", "message"),
    [
        ("all_gather_wait(%out_started, axis='tp', dim=1)", "add(%out_started, %out_started)",
         "%out_started", "its only reader must be one all_gather_wait on the same axis"),
        ("return %out", "%y: f32[B,S,8] = add(%out, %out_started)\n  return %y",
         "%out_started", "its only reader must be one all_gather_wait on the same axis"),
        ("return %out", "return %out_started",
         "%out_started", "its only reader must be one all_gather_wait on the same axis"),
        ("size=2)\n", "size=2) {save}\n",
         "%out_started", "its only reader must be one all_gather_wait on the same axis"),
        ("all_gather_wait(%out_started, axis='tp', dim=1)",
         "all_gather_wait(%out_started, axis='tp', dim=0)",
         "%out_started", "its only reader must be one all_gather_wait on the same axis"),
        ("all_gather_start(", "all_gather(",
         "%out:", "%out_started must be a all_gather_start on the same axis"),
    ],
)  # fmt: skip
def test_a_start_has_one_wait(line: str, instead: str, pointed: str, message: str) -> None:
    verify(parse_program(STARTED))
    shown = refused(parse_program(STARTED.replace(line, instead)))
    assert_pointed(shown, pointed, message)


CACHED = """\
program example
symbols B=2 S=1 C=4

block.forward:
  input %x: f32[B,S,2,8]
  cache %k_cache: f32[B,2,C,8]
  constant %positions: i64[B,S]
  constant %seen: bool[B,S,C]
  %keys: f32[B,2,C,8] = cache_append(%x, %k_cache, %positions)
  %out: f32[B,S,2,8] = cached_attention(%x, %keys, %keys, %seen, scale=1.0)
  return %out
"""


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("cached_attention(%x, %keys, %keys", "cached_attention(%x, %keys, %k_cache"),
        ("cache_append(%x, %k_cache, %positions)", "add(%k_cache, %k_cache)"),
        (
            "  return %out",
            "  %again: f32[B,S,2,8] = cache_fill(%x, %k_cache)\n"
            "  %y: f32[B,S,2,8] = add(%out, %again)\n  return %y",
        ),
    ],
)
def test_a_cache_is_read_by_the_op_that_updates_it_alone(line: str, instead: str) -> None:
    verify(parse_program(CACHED))
    shown = refused(parse_program(CACHED.replace(line, instead)))
    message = "the cache %k_cache must be read by the one op that updates it"
    assert_pointed(shown, "cache %k_cache", message)


def test_a_parameter_the_table_does_not_hold() -> None:
    program = replace(sound(), parameters={})
    assert_pointed(
        refused(program),
        "param layers.*.w as %w",
        "the parameter table has nothing under this name",
    )


def test_a_parameter_of_another_type_than_the_table_s() -> None:
    program = sound()
    entry = program.parameters["layers.*.w"]
    wide = replace(entry, type=TensorType("f32", (9, 8)))
    assert_pointed(
        refused(replace(program, parameters={entry.name: wide})),
        "param layers.*.w as %w",
        "the parameter table has f32[9,8] under this name",
    )


def test_a_saved_value_that_the_forward_does_not_make() -> None:
    program = sound()
    block = program.regions["block"]
    shown = refused(with_block(program, saved=(*block.saved, "ghost")))
    assert "^^^ %ghost is in the saved set but not a forward value" in shown


def test_a_value_read_by_the_backward_that_was_not_saved() -> None:
    shown = refused(with_block(sound(), saved=("x",)))
    assert_pointed(shown, "saved %y: f32[B,S,8]", "%y is read here but not in the saved set")


def test_a_value_saved_with_another_type() -> None:
    program = sound()
    node(program, "x", "backward").meta["type"] = TensorType("bf16", ("B", "S", 8))
    assert_pointed(refused(program), "saved %x: bf16[B,S,8]", "saved with another type")


def change_gradients(program: Program, change) -> Program:
    graph = program.regions["block"].backward.graph  # type: ignore[union-attr]
    returned = change(dict(output_of(graph)))
    graph.output_node().args = (returned,)
    return program


def test_a_parameter_without_a_gradient() -> None:
    program = change_gradients(sound(), lambda given: {"x": given["x"]})
    assert_pointed(refused(program), "return x=%d_x", "no gradient for layers.*.w")


def test_a_gradient_that_nobody_is_owed() -> None:
    program = change_gradients(sound(), lambda given: {**given, "gift": given["x"]})
    assert_pointed(refused(program), "return x=", "gift must have no gradient")


def test_a_gradient_of_another_type() -> None:
    program = change_gradients(sound(), lambda given: {**given, "x": given["layers.*.w"]})
    assert_pointed(refused(program), "return x=%d_w", "the gradient of x: f32[B,S,8] is f32[8,8]")


def test_layers_that_do_not_chain() -> None:
    text = SOUND.replace(
        "%out: f32[B,S,8] = silu(%y)", "%out: f32[B,S,8,1] = split_heads(%y, head_dim=1)"
    )
    assert_pointed(
        refused(parse_program(text)),
        "return %out",
        "layers cannot be chained: they take f32[B,S,8] and give f32[B,S,8,1]",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": ("block", "blok")}, "the layer list names an unknown region 'blok'"),
        ({"parameters": "rows"}, "has 8 rows, its pieces 9"),
    ],
    ids=["layers", "pieces"],
)
def test_tables_that_contradict_the_program(change: dict, words: str) -> None:
    program = sound()
    if change.get("parameters") == "rows":
        entry = program.parameters["layers.*.w"]
        (piece,) = entry.pieces
        change = {"parameters": {entry.name: replace(entry, pieces=(replace(piece, rows=9),))}}
    with pytest.raises(ValueError, match=words):
        verify(replace(program, **change))


def test_the_message_reads_like_this() -> None:
    assert refused(with_block(sound("selective"), saved=("x",))) == dedent(
        """\
        block.backward:
          cotangent %d_out: f32[B,S,8]
          saved %x: f32[B,S,8]
          saved %y: f32[B,S,8]
          ^^^^^^^^^^^^^^^^^^^^ %y is read here but not in the saved set
          param layers.*.w as %w: f32[8,8]
          %d_y: f32[B,S,8] = silu_backward(%d_out, %y)
          %d_w: f32[8,8] = linear_weight_gradient(%d_y, %x)
          %d_x: f32[B,S,8] = linear_input_gradient(%d_y, layers.*.w)
          return x=%d_x, layers.*.w=%d_w"""
    )
