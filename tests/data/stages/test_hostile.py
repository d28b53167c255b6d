"""No text makes a stage raise, hang or judge differently when asked again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamac.data.stages.common.sentences import split_sentences
from llamac.data.stages.header_comments import without_header
from llamac.data.stages.line_dedup import line_keys
from llamac.spec.stages import (
    C4,
    BookOverlap,
    Code,
    ExactDedup,
    HeaderComments,
    Language,
    Length,
    Licence,
    LineDedup,
    NearDedup,
    Pii,
    SpanDedup,
)
from tests.data.stages.judged import filtered, surveyed

FILTERS = [C4(), Code(), HeaderComments(), Language(), Length(min_chars=1), Licence(), Pii()]
SURVEYS = [BookOverlap(), ExactDedup(), LineDedup(min_chars=0), NearDedup(), SpanDedup()]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=200) | st.text(
    "aA1 .!?\"'()[]{}\n\r\t\0/#*-+@:%,;…“”\u2028\x85İß", max_size=400
)
LONG = {
    "marks": "." * 200_000,
    "marks and spaces": ". " * 100_000,
    "quotes": '."' * 100_000,
    "one line": "word " * 100_000,
    "one word": "x" * 500_000,
    "lines": "\n" * 200_000,
    "comment that does not end": "/*" + " copyright\n" * 20_000,
    "comments": "// copyright\n" * 20_000,
    "brackets": "SPDX-License-Identifier: " + "(" * 100_000,
    "addresses": "a." * 50_000 + "@" + "b." * 50_000,
    "digits": "1-" * 100_000,
    "colons": "1:" * 100_000,
    "NULs": "\0" * 200_000,
}


def name(value: Any) -> str:
    return value.stage


@pytest.mark.parametrize("stage", FILTERS, ids=name)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3))
def test_filters_take_any_text(stage: Any, texts: list[str]) -> None:
    assert filtered(stage, *texts) == filtered(stage, *texts)


@pytest.mark.parametrize("stage", SURVEYS, ids=name)
@settings(max_examples=15, deadline=None)
@given(parts=st.lists(st.lists(TEXTS, max_size=4), max_size=3))
def test_surveys_take_any_text(
    stage: Any, parts: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    judged = [surveyed(stage, tmp_path_factory.mktemp("survey"), *parts) for _ in range(2)]
    assert judged[0] == judged[1]
    assert [len(part) for part in judged[0]] == [len(part) for part in parts]


@pytest.mark.slow
@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
@pytest.mark.timeout(60)
def test_long_runs_of_anything_are_over_soon(text: str, tmp_path: Path) -> None:
    for stage in FILTERS:
        filtered(stage, text)
    for stage in SURVEYS:
        surveyed(stage, tmp_path / stage.stage, [text, text])


@given(TEXTS)
def test_every_line_has_a_key(text: str) -> None:
    assert len(line_keys(text)) == len(text.split("\n"))


@given(TEXTS)
def test_sentences_are_all_of_a_line_but_its_spaces(line: str) -> None:
    assert "".join("".join(split_sentences(line)).split()) == "".join(line.split())


@given(TEXTS)
def test_a_file_without_its_header_has_its_end(text: str) -> None:
    left = without_header(text)
    assert len(left) <= len(text)
    assert text.endswith(left[-1:])
