"""Tables keep to the width they are given, and wrap texts rather than numbers."""

from __future__ import annotations

import pytest

from llamac.inspect.memory import program_memory
from llamac.inspect.report import memory_text
from llamac.inspect.schedule import schedule_text
from llamac.inspect.tables import paragraph, table
from llamac.passes.pipeline import compile_spec
from llamac.spec import load_spec


@pytest.mark.parametrize("spec", ["tiny", "65b", "llama2-70b", "gpt3-block"])
@pytest.mark.parametrize("width", [80, 100])
def test_memory_and_schedule_fit_a_terminal(spec: str, width: int) -> None:
    program = compile_spec(load_spec(spec))
    text = memory_text(program, "overlap", width=width)
    text += schedule_text(program, "overlap", width=width)
    assert max(map(len, text.splitlines())) <= width
    for region in program_memory(program).regions:
        for value in region.values:
            name = value.name if len(value.name) < 20 else value.name[:12]
            assert name in text
            assert str(value.type).partition("@")[0] in text


def test_what_is_wide_enough_is_not_wrapped() -> None:
    rows = [("name", "bytes of it"), ("a_long_name_of_a_value", "1.00 MiB")]
    assert table(rows, "<>") == [
        "  name                    bytes of it",
        "  a_long_name_of_a_value     1.00 MiB",
    ]


def test_headings_of_numbers_go_first_then_texts_never_numbers() -> None:
    rows = [("name", "bytes of it"), ("a_long_name_of_a_value", "1.00 MiB")]
    assert table(rows, "<>", 34) == [
        "  name                    bytes of",
        "                                it",
        "  a_long_name_of_a_value  1.00 MiB",
    ]
    assert table(rows, "<>", 26) == [
        "  name            bytes of",
        "                        it",
        "  a_long_name_    1.00 MiB",
        "  of_a_value",
    ]


def test_paragraphs_are_wrapped_between_words() -> None:
    assert paragraph("one two three", 10, indent=2) == ["  one two", "    three"]
