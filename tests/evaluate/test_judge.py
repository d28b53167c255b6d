"""Free answers from prompt to score: the prompts of a task's shots, majority votes and programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamac.evaluate.question_files import QuestionSet, load_questions
from llamac.evaluate.tasks.known_tasks import TASKS
from tests.evaluate.conftest import PUBLISHED, write_rows

pytest.importorskip("lm_eval", reason="the extra eval is not installed")
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from llamac.evaluate.judge import evaluate_task


class Answering(LM):
    """LM that answers a prompt with `answer(prompt, number of the draw)`."""

    def __init__(self, answer: Callable[[str, int], str]) -> None:
        super().__init__()
        self.answer, self.asked = answer, []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.asked += [one.args[0] for one in requests]
        draws: dict[str, int] = {}
        found = []
        for prompt in (one.args[0] for one in requests):
            found.append(self.answer(prompt, draws.get(prompt, 0)))
            draws[prompt] = draws.get(prompt, 0) + 1
        return found

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        raise NotImplementedError


def question_set(tmp_path: Path, name: str, rows: list[Any]) -> QuestionSet:
    return load_questions(TASKS[name], None, {name: write_rows(tmp_path / f"{name}.jsonl", rows)})


@pytest.mark.parametrize("shots", [0, 1, 5, 64])
@pytest.mark.parametrize("name", ["nq", "triviaqa"])
def test_closed_book_prompts_hold_their_examples_and_never_the_question(
    tmp_path: Path, name: str, shots: int
) -> None:
    """The form is that of the paper's appendix A: "Answer these questions:", then Q: and A:."""
    answer = PUBLISHED[name]["answer"]
    rows = [{"question": f"who wrote book {n}?", "answer": answer} for n in range(70)]
    first = "The Poet" if name == "nq" else "Ann"
    lm = Answering(lambda prompt, draw: f" {first.lower()}")
    found = evaluate_task(lm, question_set(tmp_path, name, rows), shots, limit=3)
    assert found.results["exact_match"][0] == 1
    assert len(lm.asked) == 3
    for n, prompt in enumerate(lm.asked):
        begin, *examples, asked, end = prompt.split("\n")
        assert (begin, asked, end) == (
            "Answer these questions:",
            f"Q: who wrote book {n}?",
            "A:",
        )
        assert examples[1::2] == [f"A: {first}"] * shots
        assert len(set(examples[::2])) == shots
        assert asked not in examples


def test_fewer_examples_than_shots_are_noted(tmp_path: Path) -> None:
    rows = [{**PUBLISHED["nq"], "question": f"who wrote book {n}?"} for n in range(4)]
    lm = Answering(lambda prompt, draw: "")
    notes = [evaluate_task(lm, question_set(tmp_path, "nq", rows), n).notes for n in (3, 5)]
    assert not any("examples before them" in one for one in notes[0])
    assert any("nq: some questions have only 3 of 5 examples" in one for one in notes[1])


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("gsm8k", " 3 + 4 = 7\n#### 7", " 3 + 4 = 8\n#### 8"),
        ("math", r"It is $\boxed{\dfrac12}$.", r"It is $\boxed{2}$."),
    ],
)
def test_the_most_frequent_answer_is_judged(
    tmp_path: Path, name: str, right: str, wrong: str
) -> None:
    """maj@5: of the first question three draws are right, of the second two."""
    field = "question" if name == "gsm8k" else "problem"
    rows = [{**PUBLISHED[name], field: f"number {n}"} for n in range(2)]

    def answer(prompt: str, draw: int) -> str:
        most = 3 if "number 0" in prompt else 2
        return f"{right} (draw {draw})" if draw < most else wrong

    found = evaluate_task(Answering(answer), question_set(tmp_path, name, rows), 0, votes=5)
    assert found.results["exact_match"][0] == 0.5
    assert found.votes == 5


@pytest.mark.parametrize(
    ("name", "right"), [("humaneval", "\n    return 1"), ("mbpp", "def f():\n    return 1\n")]
)
def test_programs_pass_or_fail_their_tests(tmp_path: Path, name: str, right: str) -> None:
    """pass@1: of two programs one is right; of four draws a question, two of eight."""
    field = "prompt" if name == "humaneval" else "text"
    rows = [{**PUBLISHED[name], field: PUBLISHED[name][field] + "# 1\n" * n} for n in range(2)]
    lm = Answering(lambda prompt, draw: right if "# 1" in prompt and draw < 2 else "\n    x")
    asked = question_set(tmp_path, name, rows)
    assert evaluate_task(lm, asked, 0).results["pass@1"][0] == 0.5
    assert evaluate_task(lm, asked, 0, votes=4).results["pass@1"][0] == 0.25
    if name == "humaneval":  # its line break belongs to what the model writes
        assert lm.asked[0] == "def one():"
