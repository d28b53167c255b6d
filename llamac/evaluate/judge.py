"""Evaluate an LM on a task with lm-evaluation-harness."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamac.evaluate.few_shot_task import HarnessTask
from llamac.evaluate.question_files import QuestionSet
from llamac.evaluate.results import TaskResult
from llamac.evaluate.sandbox import run_program
from llamac.evaluate.tasks.answer_tasks import build_program

Sample = Mapping[str, Any]
"""Record of an evaluated question, as JSON values.

Its keys are task, shots, number (of the question, from 0), asked (arguments of its requests),
answered (responses to them), right (the right answer), and the metrics that it has.
"""


def evaluate_task(
    lm: Any,
    questions: QuestionSet,
    shots: int,
    *,
    limit: int | None = None,
    votes: int = 1,
    seed: int = 0,
    on_sample: Callable[[Sample], None] | None = None,
) -> TaskResult:
    """Evaluate an LM of lm-evaluation-harness on the first `limit` questions of a task.

    Tasks of code execute generated programs in a sandbox; ask for consent first.
    lm: an LM of the harness, such as `Adapter`. shots: few-shot examples per question.
    limit: None means all questions. votes: answers sampled per question, of which the most frequent
    is judged, or of code all. seed: seed of the selection of examples.
    on_sample: called with each question's `Sample` after the evaluation.
    """
    from lm_eval.evaluator import evaluate

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    task = questions.task
    harness_task = HarnessTask(
        questions,
        shots,
        seed=seed,
        votes=votes,
        judge_code=lambda answer, question: run_program(build_program(task.name, question, answer)),
    )
    evaluation: Any = evaluate(
        lm=lm,
        task_dict={task.name: harness_task},
        limit=limit,
        log_samples=True,
        bootstrap_iters=100,
    )
    values: Mapping[str, Any] = evaluation["results"][task.name]
    results = {}
    for metric in harness_task.aggregation():
        error = values[f"{metric}_stderr,none"]
        standard_error = error if isinstance(error, int | float) else None
        results[metric] = (float(values[f"{metric},none"]), standard_error)
    samples: Sequence[Any] = evaluation["samples"][task.name]
    for sample in samples if on_sample else ():
        assert on_sample is not None
        on_sample(_sample(task.name, shots, sample, list(results)))
    count = len(samples)
    choices = [len(question.choices) for question in questions.questions[:count]]
    notes = []
    if shots and questions.examples_from_questions:
        notes.append(
            "examples are other questions of the same file, because there is no file of examples"
        )
    fewest = min(
        len(harness_task.examples_of(question)) for question in questions.questions[:count]
    )
    if fewest < shots:
        notes.append(
            f"{task.name}: some questions have only {fewest} of {shots} examples before them, as "
            "the files hold no more"
        )
    return TaskResult(
        task=task.name,
        title=task.title,
        shots=shots,
        metric=task.metric,
        results=results,
        questions=count,
        available=len(questions.questions),
        files=questions.files,
        version=task.version,
        votes=votes,
        chance=sum(1 / n for n in choices) / count if task.kind == "choice" else None,
        skipped=dict(questions.skipped.counts),
        notes=notes,
    )


def _sample(name: str, shots: int, sample: Mapping[str, Any], metrics: Sequence[str]) -> Sample:
    return {
        "task": name,
        "shots": shots,
        "number": sample["doc_id"],
        "asked": [list(arguments) for arguments in sample["arguments"]],
        "answered": sample["resps"],
        "right": sample["target"],
        **{metric: sample[metric] for metric in metrics if metric in sample},
    }
