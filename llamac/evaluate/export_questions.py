"""Write the questions of tasks in one format, for evaluation during training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from llamac.evaluate.question_files import NoQuestionsError, QuestionSet
from llamac.runtime.evaluate.choice_metrics import ANSWER


def question_lines(sets: Sequence[QuestionSet], limit: int | None) -> str:
    """Return the first `limit` questions of each set as JSON lines, for trainers' `read_questions`.

    limit: None means all. Raises NoQuestionsError for a task that is not multiple choice.
    """
    if free := [
        question_set.task.name for question_set in sets if question_set.task.kind != "choice"
    ]:
        raise NoQuestionsError(
            f"{', '.join(free)}: trainers support multiple-choice tasks only; use `llamac eval` "
            "for the others, between or after trainings"
        )
    rows = (row for question_set in sets for row in _rows(question_set, limit))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _rows(questions: QuestionSet, limit: int | None) -> Iterator[dict[str, Any]]:
    task = questions.task
    for question in questions.questions[:limit]:
        begin = task.describe(question.subject)
        row = {
            "task": task.name,
            "prompts": [begin + prompt for prompt in question.prompts_per_choice],
            "choices": list(question.choices),
            "gold": question.gold,
        }
        yield row | ({"against": ANSWER} if task.metric == "acc_answer" else {})
