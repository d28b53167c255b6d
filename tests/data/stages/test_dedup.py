"""What occurs twice: lines, runs of sentences, documents, books."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llamac.data.document import Document, Rejected
from llamac.data.stages import build
from llamac.data.stages.common import arrays
from llamac.data.stages.line_dedup import line_keys
from llamac.runtime.errors import RunError
from llamac.spec.stages import BookOverlap, ExactDedup, LargestSites, LineDedup, SpanDedup
from tests.data.stages.judged import surveyed

WORDS = [f"word{number}" for number in range(2000)]


def book(seed: int, length: int = 3000) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


# --- Lines ---------------------------------------------------------------------------------


def test_case_digits_and_punctuation_do_not_tell_lines_apart() -> None:
    one, other, third = line_keys("  Posted on 12-05-2019, by ADMIN!\nposted on 99 31 2020 by X\nä")
    again, _, _ = line_keys("posted on 00002020 by admin\n\n…")
    assert one == again
    assert len({one, other, third}) == 3


def test_blank_lines_have_no_key() -> None:
    assert line_keys("a\n\n b\n\t\n  ")[[1, 3, 4]].tolist() == [0, 0, 0]


def test_lines_of_punctuation_are_one_and_the_same() -> None:
    assert len(set(line_keys("* * *\n---\n  }").tolist()) - {0}) == 1


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("first", [["Menu\nOne\n\nHome", "Two"], [], ["Three", "repeated lines"]]),
        ("none", [["One", "Two"], [], ["Three", "repeated lines"]]),
    ],
)
def test_repeated_lines_go(tmp_path: Path, keep: Any, expected: list[list[str]]) -> None:
    parts = [["Menu\nOne\n\nHome\n\nmenu", "MENU\nTwo\n\n\nhome"], [], ["Three", "menu.\n\nHOME"]]
    judged = surveyed(LineDedup(keep=keep, min_chars=0), tmp_path, *parts)
    assert [
        [made.reason if isinstance(made, Rejected) else made for made in part] for part in judged
    ] == expected


def test_short_documents_are_dropped_and_repeat_nothing(tmp_path: Path) -> None:
    ((short, long),) = surveyed(
        LineDedup(min_chars=20), tmp_path, ["shared line", "shared line\nand what is left"]
    )
    assert short == Rejected("short document", "11 < 20 characters")
    assert long == "shared line\nand what is left"


@pytest.mark.parametrize("keep", ["first", "none"])
def test_lines_against_a_count_of_all_lines(tmp_path: Path, keep: Any) -> None:
    draw = random.Random(3)
    parts = [
        [
            "\n".join(draw.choices(WORDS[:300], k=draw.randrange(9)))
            for _ in range(draw.randrange(9))
        ]
        for _ in range(7)
    ]
    counts = Counter(
        line for part in parts for text in part for line in text.split("\n") if line.strip()
    )
    # Digits count as 0, so that word1 and word2 are one line: letters instead.
    letters = str.maketrans("0123456789", "abcdefghij")
    judged = surveyed(
        LineDedup(keep=keep, min_chars=0),
        tmp_path,
        *[[text.translate(letters) for text in part] for part in parts],
    )
    seen: set[str] = set()
    for part, made in zip(parts, judged, strict=True):
        for text, outcome in zip(part, made, strict=True):
            kept = []
            for line in text.split("\n"):
                if line and (counts[line] == 1 or (keep == "first" and line not in seen)):
                    kept.append(line.translate(letters))
                seen.add(line)
            assert kept == ([] if isinstance(outcome, Rejected) else outcome.split("\n"))


# --- Runs of sentences ---------------------------------------------------------------------

PROSE = "It rained. The cat slept. Nobody came."


def test_three_sentences_that_occurred_before_are_removed(tmp_path: Path) -> None:
    first = f"Once more. {PROSE} And so on. It was late."
    second = f"{PROSE.upper()} But then it stopped. We left. They did too."
    judged = surveyed(SpanDedup(), tmp_path, [first], [second])
    assert judged == [[first], ["But then it stopped. We left. They did too."]]


def test_a_short_line_counts_as_a_whole(tmp_path: Path) -> None:
    texts = ["All rights reserved.\n" + PROSE, "all rights reserved.\nOne. Two. Three here."]
    assert surveyed(SpanDedup(), tmp_path, texts) == [[texts[0], "One. Two. Three here."]]


def test_pages_of_which_little_is_left_are_dropped(tmp_path: Path) -> None:
    ((_, made),) = surveyed(SpanDedup(), tmp_path, [PROSE, PROSE + " A rest."])
    assert isinstance(made, Rejected)
    assert made.reason == "repeated sentence runs"


# --- Documents and books -------------------------------------------------------------------


def test_of_equal_documents_the_first_is_kept(tmp_path: Path) -> None:
    judged = surveyed(ExactDedup(), tmp_path, ["a", "b"], ["a", "c", "c"], [], ["a "])
    duplicate = [Rejected("exact duplicate", f"same as {place}") for place in ("0:1", "1:2")]
    assert judged == [["a", "b"], [duplicate[0], "c", duplicate[1]], [], ["a "]]


def test_a_book_within_another_is_dropped_wherever_it_stands(tmp_path: Path) -> None:
    novel, sequel, other = book(1), book(2), book(3)
    anthology = f"{novel} {sequel}"
    half = f"{book(4, 1500)} {' '.join(other.split()[:1500])}"
    judged = surveyed(BookOverlap(), tmp_path, [novel, other], [half, anthology], [sequel])
    within = [Rejected("overlapping book", "100% in 1:2")]
    assert judged == [[*within, other], [half, anthology], within]


def test_of_two_editions_the_larger_is_kept_and_of_equals_the_first(tmp_path: Path) -> None:
    text = book(1)
    longer = f"{text} {book(2, 60)}"
    judged = surveyed(BookOverlap(), tmp_path, [text, text.upper(), longer, longer + "."])
    assert [isinstance(made, Rejected) for made in judged[0]] == [True, True, False, True]


def test_what_all_books_share_makes_none_a_copy(tmp_path: Path) -> None:
    licence = book(0, 300)
    parts = [[f"{licence} {book(seed, 600)}" for seed in range(1, 90)]]
    assert surveyed(BookOverlap(), tmp_path, *parts) == parts


def test_the_largest_sites_are_kept_and_of_equals_the_first_by_name(tmp_path: Path) -> None:
    survey = build(LargestSites(sites=2))
    assert not callable(survey)
    parts = [
        [Document("", "dumps/cooking/Posts.xml", 1)] * 2
        + [Document("", "x", 1, {"site": "physics"})],
        [Document("", "y", 1, {"site": "physics"}), Document("", "dumps/bricks/Posts.xml", 1)] * 2,
    ]
    for number, part in enumerate(parts):
        survey.scan(part, tmp_path / str(number))
    survey.merge([tmp_path / "0", tmp_path / "1"], tmp_path / "decided")
    judged = [[*map(survey.judge(tmp_path / "decided", n), part)] for n, part in enumerate(parts)]
    small = Rejected("small site", "cooking")
    assert judged == [[small, small, parts[0][2]], parts[1]]


# --- All surveys ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stage", [LineDedup(min_chars=0), ExactDedup(), BookOverlap(), SpanDedup()]
)
def test_merging_in_small_cuts_decides_the_same(
    stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    parts = [["\n".join(draw.choices(PROSE.split(), k=3)) for _ in range(40)] for _ in range(3)]
    whole = surveyed(stage, tmp_path / "whole", *parts)
    monkeypatch.setattr(arrays.ranges, "__defaults__", (8,))
    assert surveyed(stage, tmp_path / "cut", *parts) == whole
    assert (tmp_path / "cut/decided").read_bytes() == (tmp_path / "whole/decided").read_bytes()


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "found").write_bytes(b"\xff\xff not JSON\n")
    with pytest.raises(RunError, match="found is damaged"):
        arrays.load(tmp_path / "found")
