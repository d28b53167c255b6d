"""Task of lm-evaluation-harness: few-shot prompts, requests, and metrics of the answers."""

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
"""Function of (answer, question): the error of running the answer as a program; "" if right."""


class HarnessTask(Task):
    """Task of lm-evaluation-harness over a QuestionSet.

    Questions of one subject have the same few-shot examples, so that a model processes these only
    once; a question that is one of them leaves itself out.
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
        """Create the task.

        shots: few-shot examples per question. seed: seed of their selection. votes: answers sampled
        per question, of which the most frequent is judged, or of code all. judge_code: required for
        tasks whose answers are code.
        """
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
        """Do nothing, because questions are read from local files."""

    def has_training_docs(self) -> bool:
        """Return False, because all questions are test documents."""
        return False

    def has_validation_docs(self) -> bool:
        """Return False, because all questions are test documents."""
        return False

    def has_test_docs(self) -> bool:
        """Return True, because all questions are test documents."""
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        """Return the questions, each as a dict of `Question`'s fields."""
        return self._docs

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        """Return a question's prompt, without examples."""
        return doc["prompt"]

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        """Return a question's right choice, or all its right answers, separated by semicolons."""
        return doc["choices"][doc["gold"]] if doc["choices"] else "; ".join(doc["answers"])

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, **kwargs: Any) -> str:
        """Return the text before a question's prompt: the task's description and the examples.

        num_fewshot: ignored; the number of examples is `shots`.
        """
        task, question = self.set.task, Question(**doc)
        examples = [*self.examples_of(question), ""]
        return task.describe(question.subject) + task.between.join(examples)

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        """Return one request per choice, or one for a generated answer.

        For `acc_answer`, one more per choice follows, after "Answer:" alone, as the baseline.
        ctx: text before the prompt. kwargs: must have the harness's `metadata`.
        """
        question, task = Question(**doc), self.set.task
        metadata = kwargs["metadata"]
        if task.kind == "choice":
            each = zip(question.prompts_per_choice, question.choices, strict=True)
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
        """Store the first answer to each request, or with votes all, and return the requests."""
        for instance in self._instances or []:
            instance.filtered_resps["none"] = (
                list(instance.resps) if self.votes > 1 else instance.resps[0]
            )
        return self._instances or []

    def process_results(self, doc: dict[str, Any], results: Sequence[Any]) -> Mapping[str, float]:
        """Return the metrics of a question by name, from 0 to 1.

        results: responses to the question's requests, in their order: (log-probability in nats,
        whether greedy) of each choice, or one generated answer, with votes a list of answers.
        """
        question, task = Question(**doc), self.set.task
        if task.kind == "choice":
            values, count = [value for value, _ in results], len(question.choices)
            lengths = [len(choice.lstrip()) for choice in question.choices]
            baseline = values[count:] or None
            return question_metrics(question.gold, values[:count], lengths, baseline)
        if task.runs_code:
            answers = results[0] if self.votes > 1 else [results[0]]
            assert self.judge_code is not None
            is_right = [not self.judge_code(answer, question) for answer in answers]
            return {task.metric: sum(is_right) / len(is_right)}
        answer = _most_frequent(results[0], task.extract) if self.votes > 1 else results[0]
        return {task.metric: float(task.judge(answer, question))}

    def aggregation(self) -> dict[str, Callable[..., float]]:
        """Return the function that aggregates each metric over questions, by name: the mean."""
        return dict.fromkeys(self._metrics(), mean)

    def higher_is_better(self) -> dict[str, bool]:
        """Return True for each metric, by name."""
        return dict.fromkeys(self._metrics(), True)

    def _metrics(self) -> Sequence[str]:
        task = self.set.task
        answer = ("acc_answer",) if task.metric == "acc_answer" else ()
        return ("acc", "acc_norm", *answer) if task.kind == "choice" else (task.metric,)

    def examples_of(self, question: Question) -> list[str]:
        """Return the texts of a question's few-shot examples, which exclude the question itself.

        They have its subject, and are drawn with `seed`, or for MMLU taken in the file's order.
        There are fewer than `shots` if the files have no more.
        """
        if not self.shots:
            return []
        if question.subject not in self._drawn:
            pool = [example for example in self.set.examples if example.subject == question.subject]
            count = self.shots + self.set.examples_from_questions
            if self.set.task.examples == "dev":  # MMLU's five examples of a subject, in their order
                selected = pool[:count]
            else:
                random_order = random.Random(f"{self.seed} {question.subject}")
                selected = random_order.sample(pool, min(count, len(pool)))
            self._drawn[question.subject] = selected
        others = [example for example in self._drawn[question.subject] if example != question]
        return [example.example for example in others[: self.shots]]


def _most_frequent(answers: Sequence[str], extract: Callable[[str], str]) -> str:
    """Return the first answer whose extracted value is the most frequent; empty values lose."""
    values = [extract(answer) for answer in answers]
    counts = Counter(value for value in values if value)
    if not counts:
        return answers[0]
    best = counts.most_common(1)[0][0]
    return answers[values.index(best)]
