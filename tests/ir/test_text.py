"""Printing and parsing: one is the other's inverse, and a line that cannot be read is named."""

from __future__ import annotations

import pytest

from llamac.ir.parser import ParseError, parse_program
from llamac.ir.printer import print_program
from llamac.ir.types import TensorType, TypeRuleError
from llamac.ir.verifier import verify
from llamac.passes.pass_list import stages
from tests.compare import SHIPPED, shipped
from tests.passes.programs import program


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_text_and_program_are_inverse_at_every_stage(name: str) -> None:
    for stage in stages(shipped(name)):
        text = print_program(stage.program)
        again = parse_program(text)
        assert print_program(again) == text, stage.name
        verify(again)


def test_what_is_parsed_says_the_same_as_what_was_printed() -> None:
    for stage in stages(shipped("65b")):
        found = parse_program(print_program(stage.program))
        for name in ("name", "symbols", "parameters", "buffers", "layers", "notes"):
            assert getattr(found, name) == getattr(stage.program, name), name
        for region in stage.program.regions.values():
            assert found.regions[region.name].saved == region.saved


GOOD = """\
program example
symbols B=2 S=4
parameter norm: f32[8] = ones
layers 2 × block

block.forward:
  input %x: f32[B,S,8]
  param norm as %norm: f32[8]
  %y: f32[B,S,8] = rms_norm(%x, norm, eps=1e-05)  # a.toml:3
  return %y
"""


def test_the_good_text_is_good() -> None:
    assert print_program(parse_program(GOOD)) == GOOD


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("rms_norm(", "rms_form(", 9, "unknown op 'rms_form'"),
        ("(%x, norm", "(%z, norm", 9, "%z is not defined at this point"),
        ("(%x, norm", "(%x, gain", 9, "gain is not defined at this point"),
        ("eps=1e-05", "eps=", 9, "cannot parse the attributes"),
        ("%y: f32", "%x: f32", 9, "%x is defined twice"),
        ("%y: f32", "%sum: f32", 9, "%sum is reserved by Python; rename the value"),
        ("  return %y", "  return %w", 10, "%w is not defined at this point"),
        ("  return %y", "  go back", 10, "cannot read this"),
        ("input %x", "given %x", 7, "cannot read this"),
        ("layers 2 × block", "layers two × block", 4, "cannot read this"),
        ("symbols", "cymbals", 2, "cannot read this"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_program(GOOD.replace(old, new))
    message = str(caught.value)
    assert message.startswith(f"line {line}: "), message
    assert words in message


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("input %x: f32[B,S,8]", "input %x: f31[B,S,8]", 7),
        ("%y: f32[B,S,8]", "%y: f32[B,S,8", 9),
        ("param norm as %norm: f32[8]", "param norm as %norm: f32", 8),
        ("(%x, norm, eps=1e-05)", "(%x, norm, pace=1e-05)", 9),
        ("(%x, norm, eps=1e-05)", "(%x, eps=1e-05)", 9),
        ("symbols B=2 S=4", "symbols B=two S=4", 2),
        ("symbols B=2 S=4", "symbols B S", 2),
        ("= ones", "= evens", 3),
    ],
)
def test_types_and_attributes_that_make_no_sense_are_named_too(
    old: str, new: str, line: int
) -> None:
    with pytest.raises(ParseError) as caught:
        parse_program(GOOD.replace(old, new))
    assert str(caught.value).startswith(f"line {line}: "), str(caught.value)


def test_a_graph_without_an_end_is_named() -> None:
    with pytest.raises(ParseError, match=r"block\.forward has no return"):
        parse_program(GOOD.replace("  return %y\n", ""))


def test_saved_values_and_unused_results_are_marked() -> None:
    graph = """
        block.forward:
          input %x: f32[B,S,8] {save}
          %a: f32[B,S,4], _: f32[B,S,4] = split(%x, sizes=(4, 4), dim=-1) {save %a}
          return %a
        """
    region = program(graph).regions["block"]
    assert region.saved == ("x", "a")


@pytest.mark.parametrize("text", ["bf16[B,S,4096]", "f32[]", "i64[B,S]", "f64[7]"])
def test_types_read_as_they_print(text: str) -> None:
    assert str(TensorType.parse(text)) == text


@pytest.mark.parametrize("text", ["f32", "f16[2]", "f32[2", ""])
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(TypeRuleError):
        TensorType.parse(text)


def test_sizes_follow_the_symbols() -> None:
    kind = TensorType.parse("bf16[B,S,8]")
    assert kind.elements({"B": 2, "S": 3}) == 48
    assert kind.nbytes({"B": 2, "S": 3}) == 96
