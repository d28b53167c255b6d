"""Layouts: how they read, and how they pass through ops, as one axis of the mesh splits them."""

from __future__ import annotations

import inspect

import pytest

from llamac.ir.layout import with_layouts
from llamac.ir.op import OPS
from llamac.ir.parser import parse_program
from llamac.ir.printer import print_program
from llamac.ir.types import TensorType, TypeRuleError
from llamac.ir.verifier import verify

ATTRIBUTES = {
    "rms_norm": {"eps": 1e-5},
    "rms_norm_backward": {"eps": 1e-5},
    "attention": {"scale": 1.0, "kernel": "math"},
    "split": {"sizes": (4, 4), "dim": -1},
    "all_gather": {"axis": "tp", "dim": 1, "size": 2},
    "reduce_scatter": {"axis": "tp", "dim": 1, "size": 2},
    "all_reduce": {"axis": "tp"},
    "broadcast": {"axis": "tp"},
    "take_part": {"axis": "tp", "dim": 0, "size": 2},
    "place_part": {"axis": "tp", "dim": 0, "size": 2},
}


def inferred(name: str, *operands: str) -> str:
    op, kinds = OPS[name], [TensorType.parse(text) for text in operands]
    found = op.infer(*kinds, **ATTRIBUTES.get(name, {}))
    if op.dims is not None:
        found = with_layouts(op.dims, kinds, found)
    return " ".join(map(str, found if isinstance(found, tuple) else (found,)))


@pytest.mark.parametrize("text", ["f32[]", "bf16[B,S/tp,8]@tp:S(1)", "f32[4,8]@cp:P,tp:S(0)"])
def test_a_type_reads_back_as_it_was_written(text):
    assert str(TensorType.parse(text)) == text


@pytest.mark.parametrize("text", ["f32[4]@tp", "f32[4]@tp:R", "f32[4]@tp:S", "f32[4]@"])
def test_a_layout_that_is_none_is_refused(text):
    with pytest.raises(TypeRuleError, match="not a tensor type"):
        TensorType.parse(text)


@pytest.mark.parametrize(
    ("op", "operands", "result"),
    [
        # Megatron's column-parallel linear, its row-parallel one, and sequence parallelism
        ("linear", ["f32[B,S,8]", "f32[4,8]@tp:S(0)"], "f32[B,S,4]@tp:S(2)"),
        ("linear", ["f32[B,S,4]@tp:S(2)", "f32[8,4]@tp:S(1)"], "f32[B,S,8]@tp:P"),
        ("linear", ["f32[B,S/cp,8]@cp:S(1)", "f32[4,8]"], "f32[B,S/cp,4]@cp:S(1)"),
        ("linear_input_gradient", ["f32[B,S,4]@tp:S(2)", "f32[4,8]@tp:S(0)"], "f32[B,S,8]@tp:P"),
        (
            "linear_weight_gradient",
            ["f32[B,S/cp,4]@cp:S(1),tp:S(2)", "f32[B,S/cp,8]@cp:S(1)"],
            "f32[4,8]@cp:P,tp:S(0)",
        ),
        ("rms_norm", ["f32[B,S/tp,8]@tp:S(1)", "f32[8]"], "f32[B,S/tp,8]@tp:S(1)"),
        (
            "rms_norm_backward",
            ["f32[B,S/tp,8]@tp:S(1)", "f32[B,S/tp,8]@tp:S(1)", "f32[8]"],
            "f32[B,S/tp,8]@tp:S(1) f32[8]@tp:P",
        ),
        (
            "attention",
            ["f32[B,S,4,2]@tp:S(2)", "f32[B,S,2,2]@tp:S(2)", "f32[B,S,2,2]@tp:S(2)"],
            "f32[B,S,4,2]@tp:S(2) f32[B,4,S]@tp:S(1)",
        ),
        ("split", ["f32[B,S,8]@tp:S(2)"], "f32[B,S,4]@tp:S(2) f32[B,S,4]@tp:S(2)"),
        ("add", ["f32[B,S,8]@tp:P", "f32[B,S,8]@tp:P"], "f32[B,S,8]@tp:P"),
        ("cross_entropy", ["f32[B,S/cp,9]@cp:S(1)", "i64[B,S/cp]@cp:S(1)"], "f32[]"),
        ("all_gather", ["f32[B,S/tp,8]@tp:S(1)"], "f32[B,S,8]"),
        ("reduce_scatter", ["f32[B,S,8]@cp:S(1),tp:P"], "f32[B,S/tp,8]@cp:S(1),tp:S(1)"),
        ("reduce_scatter", ["f32[B,6,8]@tp:P"], "f32[B,3,8]@tp:S(1)"),
        ("all_reduce", ["f32[B,S,8]@tp:P"], "f32[B,S,8]"),
        ("broadcast", ["f32[B,S,8]"], "f32[B,S,8]"),
        ("take_part", ["f32[8,4]"], "f32[4,4]@tp:S(0)"),
        ("place_part", ["f32[4,4]@tp:S(0)"], "f32[8,4]@tp:P"),
    ],
)
def test_layouts_pass_through(op, operands, result):
    assert inferred(op, *operands) == result


@pytest.mark.parametrize(
    ("op", "operands", "message"),
    [
        ("take_part", ["f32[7,4]"], "7 does not divide"),
        ("linear", ["f32[B,S,8]@tp:P", "f32[4,8]"], "must be reduced first"),
        ("silu", ["f32[B,S,8]@tp:P"], "must be reduced first"),
        ("mul", ["f32[B,S,8]@tp:P", "f32[B,S,8]@tp:P"], "must be reduced first"),
        ("linear", ["f32[B,S,8]@tp:S(2)", "f32[4,8]"], "only some of its operands"),
        ("linear", ["f32[B,S,8]@tp:S(1)", "f32[4,8]@tp:S(0)"], "different dimensions"),
        ("linear", ["f32[B,S,4]@tp:S(2)", "f32[8,4]@tp:S(1)", "f32[8]"], "row-parallel"),
        (
            "rms_norm",
            ["f32[B,S,8]@tp:S(2)", "f32[8]"],
            "splits a dimension that the op needs whole",
        ),
        (
            "embedding",
            ["i64[B,S]", "f32[9,8]@tp:S(0)"],
            "splits a dimension that the op needs whole",
        ),
        ("all_gather", ["f32[B,S,8]@tp:P"], r"the operand must be S\(1\), not P"),
        ("all_reduce", ["f32[B,S,8]"], "the operand must be P, not R"),
        ("reduce_scatter", ["f32[B,7,8]@tp:P"], "7 does not divide over 2 ranks of tp"),
    ],
)
def test_a_layout_an_op_cannot_take_is_refused(op, operands, message):
    with pytest.raises(TypeRuleError, match=message):
        inferred(op, *operands)


def test_every_op_says_how_layouts_pass_through_it():
    for name, op in OPS.items():
        names_an_axis = "axis" in inspect.signature(op.infer).parameters
        assert (op.dims is None) == names_an_axis, name


SHARDED = """\
program sharded
symbols B=2 S=8 S/tp=4
mesh tp=2
parameter layers.*.w1: f32[4,8]@tp:S(0) = pack(layers.*.w1[8] normal(0.02))
layers 1 × block

block.forward:
  input %x: f32[B,S/tp,8]@tp:S(1)
  param layers.*.w1 as %w1: f32[4,8]@tp:S(0)
  %whole: f32[B,S,8] = all_gather(%x, axis='tp', dim=1, size=2)
  %wide: f32[B,S,4]@tp:S(2) = linear(%whole, layers.*.w1)
  %left: f32[B,S,2]@tp:S(2), %right: f32[B,S,2]@tp:S(2) = split(%wide, sizes=(2, 2), dim=-1)
  %both: f32[B,S,4]@tp:S(2) = concat(%left, %right, dim=-1)
  %fed: f32[B,S,8]@tp:P = linear_input_gradient(%both, layers.*.w1)
  %out: f32[B,S/tp,8]@tp:S(1) = reduce_scatter(%fed, axis='tp', dim=1, size=2)
  return %out
"""


def test_layouts_read_back_in_a_program():
    program = parse_program(SHARDED)
    verify(program)
    assert print_program(program) == SHARDED
    assert program.parameter_count == 8 * 8  # of all ranks together
