"""Task for lm-evaluation-harness: prompts, requests, and scoring of answers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig

from llamac.evaluate.question_files import QuestionSet
from llamac.evaluate.tasks.question import Question
from llamac.runtime.evaluate.choice_metrics import ANSWER, question_metrics

CodeJudge = Callable[[str, Question], str]
"""(answer, question) → what went wrong when the program ran; empty if it is right."""


class HarnessTask(Task):
    """Harness task for the questions of a QuestionSet.

    All questions (of one subject, if there are subjects) have the same few-shot examples, drawn
    with `seed`, so that a model processes them only once.
    """

    def __init__(
        self,
        questions: QuestionSet,
        shots: int,
        *,
        seed: int = 0,
        votes: int = 1,
        judge_code: CodeJudge | None = None,
    ) -> None:
        """Create the task. votes: answers sampled per question; the most frequent is judged."""
        task = questions.task
        self.VERSION = task.version
        self.OUTPUT_TYPE = "multiple_choice" if task.kind == "choice" else "generate_until"
        super().__init__()
        self._config = TaskConfig(
            task=task.name, num_fewshot=shots, repeats=votes, output_type=self.OUTPUT_TYPE
        )
        self.set, self.shots, self.seed, self.votes = questions, shots, seed, votes
        self.judge_code = judge_code
        self._docs = [asdict(question) for question in questions.questions]
        self._drawn: dict[str, list[Question]] = {}

    def download(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the questions are read from local files."""

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        return self._docs

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        return doc["prompt"]

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        return doc["choices"][doc["gold"]] if doc["choices"] else "; ".join(doc["answers"])

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, **kwargs: Any) -> str:
        """Return the text before a question's prompt: the description and the examples."""
        task, question = self.set.task, Question(**doc)
        examples = [*self.examples_of(question), ""]
        return task.describe(question.about) + task.between.join(examples)

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        question, task = Question(**doc), self.set.task
        metadata = kwargs["metadata"]
        if task.kind == "choice":
            each = zip(question.prompt_of_each, question.choices, strict=True)
            pairs = [(ctx + prompt, choice) for prompt, choice in each]
            if task.metric == "acc_answer":
                pairs += [(ANSWER, choice) for choice in question.choices]
            return [
                Instance("loglikelihood", doc, pair, number, metadata)
                for number, pair in enumerate(pairs)
            ]
        temperature = task.temperature or (0.7 if self.votes > 1 else 0.0)
        settings = {
            "until": list(task.until),
            "max_gen_toks": task.tokens,
            "do_sample": temperature > 0,
            "temperature": temperature,
        }
        prompt = ctx + question.prompt
        return [Instance("generate_until", doc, (prompt, settings), 0, metadata)]

    def apply_filters(self) -> list[Instance]:
        for instance in self._instances or []:
            instance.filtered_resps["none"] = (
                list(instance.resps) if self.votes > 1 else instance.resps[0]
            )
        return self._instances or []

    def process_results(self, doc: dict[str, Any], results: Sequence[Any]) -> Mapping[str, float]:
        question, task = Question(**doc), self.set.task
        if task.kind == "choice":
            values, count = [value for value, _ in results], len(question.choices)
            lengths = [len(choice.lstrip()) for choice in question.choices]
            without = values[count:] or None
            return question_metrics(question.gold, values[:count], lengths, without)
        if task.runs_code:
            answers = results[0] if self.votes > 1 else [results[0]]
            assert self.judge_code is not None
            right = [not self.judge_code(answer, question) for answer in answers]
            return {task.metric: sum(right) / len(right)}
        answer = _most_frequent(results[0], task.extract) if self.votes > 1 else results[0]
        return {task.metric: float(task.judge(answer, question))}

    def aggregation(self) -> dict[str, Callable[..., float]]:
        return dict.fromkeys(self._metrics(), mean)

    def higher_is_better(self) -> dict[str, bool]:
        return dict.fromkeys(self._metrics(), True)

    def _metrics(self) -> Sequence[str]:
        task = self.set.task
        answer = ("acc_answer",) if task.metric == "acc_answer" else ()
        return ("acc", "acc_norm", *answer) if task.kind == "choice" else (task.metric,)

    def examples_of(self, question: Question) -> list[str]:
        """Return the few-shot examples of a question, which never include the question itself.

        They are fewer than `shots` if the files have no more.
        """
        if not self.shots:
            return []
        if question.about not in self._drawn:
            alike = [one for one in self.set.examples if one.about == question.about]
            count = self.shots + self.set.examples_are_asked
            if self.set.task.examples == "dev":  # MMLU's five of a subject, in their order
                drawn = alike[:count]
            else:
                random_order = random.Random(f"{self.seed} {question.about}")
                drawn = random_order.sample(alike, min(count, len(alike)))
            self._drawn[question.about] = drawn
        others = [one for one in self._drawn[question.about] if one != question]
        return [one.example for one in others[: self.shots]]


def _most_frequent(answers: Sequence[str], extract: Callable[[str], str]) -> str:
    """Return the first answer whose extracted value is the most frequent; empty values lose."""
    values = [extract(answer) for answer in answers]
    counts = Counter(value for value in values if value)
    if not counts:
        return answers[0]
    best = counts.most_common(1)[0][0]
    return answers[values.index(best)]
