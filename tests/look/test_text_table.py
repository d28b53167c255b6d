"""Tables keep to the width they are given, and wrap texts rather than numbers."""

from __future__ import annotations

import pytest
from rich.text import Text

from llamac.inspect.memory import program_memory
from llamac.inspect.report import memory_tables
from llamac.inspect.schedule import schedule_parts
from llamac.look.text_table import TextTable, hanging, plain_text
from llamac.passes.pass_list import compile_spec
from llamac.spec import load_spec

LAYOUT = "tp8,pp4,vpp2,dp8,rep2,mb1,budget81.6GB"
SPARE = TextTable(
    "fastest first",
    ("", "layout", "tok/s/GPU", "MFU", "days", "GB", "a step", "compute", "tensor", "bubble"),
    [("1", LAYOUT, "13,455", "58.3 %", "53.8", "64.27", "19.482", "18.959", "0.000", "0.285")],
    "><>>>>>>>>",
    note="What the letters mean is said here, in a line that is longer than eighty columns are.",
    spare=3,
)


@pytest.mark.parametrize("spec", ["tiny", "65b", "llama2-70b", "gpt3-block"])
@pytest.mark.parametrize("width", [80, 100])
def test_memory_and_schedule_fit_a_terminal(spec: str, width: int) -> None:
    program = compile_spec(load_spec(spec))
    text = plain_text(memory_tables(program, "overlap"), width)
    text += plain_text(schedule_parts(program, "overlap"), width)
    assert max(map(len, text.splitlines())) <= width
    for region in program_memory(program).regions:
        for value in region.values:
            name = value.name if len(value.name) < 20 else value.name[:12]
            assert name in text
            assert str(value.type).partition("@")[0] in text


@pytest.mark.parametrize("columns", [60, 80, 107, 108, 160])
def test_spare_columns_are_left_out_where_there_is_no_room(columns: int) -> None:
    text = plain_text(["a line " * 20, SPARE], columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "".join(text.split()).count("13,455") == 1
    assert all(number in text for number in ("58.3 %", "64.27", "19.482"))
    assert ("18.959" in text) == (columns >= 108)
    assert ("make the terminal 108 columns wide" in " ".join(text.split())) == (columns < 108)


def test_a_file_has_every_column_on_one_line() -> None:
    assert any(LAYOUT in line and "0.285" in line for line in plain_text([SPARE]).splitlines())


def test_what_is_wide_enough_is_not_wrapped() -> None:
    table = TextTable("", ("name", "bytes of it"), [("a_long_name_of_a_value", "1.00 MiB")], "<>")
    assert plain_text([table]).splitlines() == [
        "  name                    bytes of it",
        "  a_long_name_of_a_value     1.00 MiB",
    ]


def test_headings_of_numbers_go_first_then_texts_never_numbers() -> None:
    table = TextTable("", ("name", "bytes of it"), [("a_long_name_of_a_value", "1.00 MiB")], "<>")
    assert plain_text([table], 34).splitlines() == [
        "  name                    bytes of",
        "                                it",
        "  a_long_name_of_a_value  1.00 MiB",
    ]
    assert plain_text([table], 26).splitlines() == [
        "  name            bytes of",
        "                        it",
        "  a_long_name_    1.00 MiB",
        "  of_a_value",
    ]


def test_a_text_without_a_place_to_wrap_is_cut() -> None:
    table = TextTable("", ("", ""), [("file", "/a/path/without/spaces.jsonl")], "<<")
    assert plain_text([table], 24).splitlines() == [
        "  file  /a/path/without/",
        "        spaces.jsonl",
    ]


def test_paragraphs_are_wrapped_between_words() -> None:
    assert [line.plain for line in hanging("  one two three", 11)] == ["  one two", "    three"]


def test_cells_keep_their_style_where_they_are_wrapped() -> None:
    row = (Text("saved for a long time", "kept"), "1")
    lines = [*TextTable("", ("", ""), [row], "<>").lines(16)]
    assert len(lines) > 1
    assert {str(span.style) for line in lines for span in line.spans} == {"kept"}
