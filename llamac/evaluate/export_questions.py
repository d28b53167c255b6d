"""Writing questions for trainers: texts and the right answer, whatever the task's own format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from llamac.evaluate.question_files import NoQuestionsError, QuestionSet
from llamac.runtime.evaluate.choice_metrics import ANSWER


def question_lines(sets: Sequence[QuestionSet], limit: int | None) -> str:
    """Return the first `limit` questions of each task as JSON lines, as `read_questions` reads.

    Raises NoQuestionsError for a task that has no choices.
    """
    if free := [one.task.name for one in sets if one.task.kind != "choice"]:
        raise NoQuestionsError(
            f"{', '.join(free)}: trainers support multiple-choice tasks only; use `llamac eval` "
            "for the others, between or after trainings"
        )
    rows = (row for one in sets for row in _rows(one, limit))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _rows(questions: QuestionSet, limit: int | None) -> Iterator[dict[str, Any]]:
    task = questions.task
    for question in questions.questions[:limit]:
        begin = task.describe(question.about)
        row = {
            "task": task.name,
            "prompts": [begin + prompt for prompt in question.prompt_of_each],
            "choices": list(question.choices),
            "gold": question.gold,
        }
        yield row | ({"against": ANSWER} if task.metric == "acc_answer" else {})
