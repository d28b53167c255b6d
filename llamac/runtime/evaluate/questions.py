"""Multiple-choice questions that a trainer evaluates with its training graphs.

`llamac data questions` writes the file, one JSON object per line:

    {"task": "piqa", "prompts": [text, …], "choices": [text, …], "gold": number}

There is a prompt for each choice, and `gold` is the index of the right choice. With "against":
text, the metric `acc_answer` compares with the choices' log-probabilities after that text.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import RunError
from ..kernels.padding import PADDING
from .choice_metrics import question_metrics


class QuestionEncoder(Protocol):
    """Interface of a tokenizer that encodes questions. eos: id of EOS; -1 without one."""

    eos: int

    def encode(self, text: str) -> Iterable[int]: ...


class DataRanks(Protocol):
    """Interface of the part of `Mesh` that `Questions` uses."""

    @property
    def device(self) -> torch.device: ...
    @property
    def degrees(self) -> Mapping[str, int]: ...
    @property
    def size(self) -> int: ...
    @property
    def data_ranks(self) -> int: ...
    @property
    def data_rank(self) -> int: ...
    def local_positions(self, *several: Tensor) -> list[Tensor]: ...
    def any(self, flag: bool) -> bool: ...


@dataclass(frozen=True)
class EncodedQuestion:
    """A tokenised question.

    answers: ids of (context, continuation) of each choice and, if `compared`, again of each choice
    after a context without the question, for `acc_answer`. characters: length of each choice,
    without leading spaces. gold: index of the right choice.
    """

    task: str
    answers: tuple[tuple[list[int], list[int]], ...]
    characters: tuple[int, ...]
    gold: int
    compared: bool


def read_questions(
    path: str | Path, tasks: Sequence[str], count: int, tokenizer: QuestionEncoder
) -> list[EncodedQuestion]:
    """Read the first `count` questions of each task, in turn: one of each task, and so on.

    tasks: names of tasks. Raises RunError if the file cannot be read, a line is not a valid
    question, or a task has none.
    """
    by_task: dict[str, list[EncodedQuestion]] = {task: [] for task in tasks}
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    if len(by_task.get(row["task"], range(count))) < count:
                        by_task[row["task"]].append(_question(row, tokenizer))
                except (ValueError, TypeError, KeyError, RecursionError) as error:
                    raise RunError(f"{path}:{number} is not a valid question: {error!r}") from error
    except (OSError, UnicodeError) as error:
        raise RunError(f"eval.questions {path} cannot be read: {error}") from error
    if missing := [task for task in tasks if not by_task[task]]:
        raise RunError(
            f"{path} has no questions of {', '.join(missing)}: write them with `llamac data "
            "questions`, or leave them out of eval.tasks"
        )
    turns = range(max(map(len, by_task.values())))
    return [by_task[task][turn] for turn in turns for task in tasks if turn < len(by_task[task])]


def _question(row: Mapping[str, Any], tokenizer: QuestionEncoder) -> EncodedQuestion:
    prompts, choices, gold = row["prompts"], row["choices"], row["gold"]
    if not choices or not 0 <= gold < len(choices) or not all(choices):
        raise ValueError("its choices are empty, or `gold` is not one of them")
    pairs = [*zip(prompts, choices, strict=True)]
    against = row.get("against")
    pairs += [(against, choice) for choice in choices] if against else []
    return EncodedQuestion(
        row["task"],
        tuple(encode_pair(tokenizer, *pair) for pair in pairs),
        tuple(len(choice.lstrip()) for choice in choices),
        gold,
        bool(against),
    )


def encode_pair(
    tokenizer: QuestionEncoder, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Return (ids of a context, beginning with EOS as training texts do, ids of its continuation).

    Spaces at the context's end are moved to the continuation, as in lm-evaluation-harness.
    """
    begin = [tokenizer.eos] if tokenizer.eos >= 0 else []
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole = [*begin, *map(int, tokenizer.encode(context + continuation))]
    before = len(begin) + len([*tokenizer.encode(context)])
    return whole[:before], whole[before:]


class Questions:
    """Evaluation of multiple-choice questions by forward passes of the training model.

    Each data rank scores one answer per pass, until all answers are scored or `seconds` have
    passed. A pass has the shape of a training micro-batch, `rows` × `length` tokens, so that
    compiled graphs are reused. The answer is in the first row, truncated on the left if it is
    longer; the other rows are padding.
    """

    def __init__(
        self, questions: Sequence[EncodedQuestion], seconds: float, rows: int, length: int
    ) -> None:
        self.questions, self.seconds, self.rows, self.length = questions, seconds, rows, length
        self.pairs = [pair for question in questions for pair in question.answers]

    @torch.no_grad()
    def ask(self, score: Callable[[Tensor, Tensor], Tensor], mesh: DataRanks) -> dict[str, float]:
        """Score the answers and return the fields of a row of metrics. All ranks call this.

        The fields are eval/TASK/METRIC, its standard error eval/TASK/METRIC_stderr, and
        eval/TASK/questions, the number of questions whose answers are all scored; tasks without
        such a question are left out. score: maps this rank's tokens and labels, both int64 [rows,
        positions], to the sum of losses in nats.
        """
        deadline, ranks = time.monotonic() + self.seconds, mesh.data_ranks
        values, done = torch.zeros(len(self.pairs), device=mesh.device), 0
        while done < len(self.pairs):
            own = done + mesh.data_rank
            pair = self.pairs[own] if own < len(self.pairs) else None
            loss = score(*mesh.local_positions(*self._batch(pair, mesh.device)))
            if pair is not None:
                values[own] = -loss.detach().float() / mesh.degrees["tp"]
            done = min(done + ranks, len(self.pairs))
            if mesh.any(time.monotonic() > deadline):
                break
        if mesh.size > 1:
            dist.all_reduce(values)
        return self._row(values[:done].tolist())

    def _batch(
        self, pair: tuple[list[int], list[int]] | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return tokens and labels, int64 [rows, length], of a (context, continuation) in row 0.

        Labels outside the continuation are PADDING, as are all of them without a pair.
        """
        tokens = torch.zeros(self.rows, self.length, dtype=torch.int64)
        labels = torch.full_like(tokens, PADDING)
        if pair is not None:
            sequence = torch.tensor([*pair[0], *pair[1]][-(self.length + 1) :])
            scored = min(len(pair[1]), len(sequence) - 1)
            end = len(sequence) - 1
            tokens[0, :end] = sequence[:-1]
            labels[0, end - scored : end] = sequence[end + 1 - scored :]
        return tokens.to(device), labels.to(device)

    def _row(self, values: Sequence[float]) -> dict[str, float]:
        """Return the metrics of the questions whose answers are all scored."""
        by_task: dict[str, list[Mapping[str, float]]] = {}
        start = 0
        for question in self.questions:
            end = start + len(question.answers)
            if end > len(values):
                break
            scores, count = values[start:end], len(question.characters)
            without = scores[count:] if question.compared else None
            verdict = question_metrics(question.gold, scores[:count], question.characters, without)
            by_task.setdefault(question.task, []).append(verdict)
            start = end
        row: dict[str, float] = {}
        for task, verdicts in by_task.items():
            for metric in verdicts[0]:
                mean = sum(verdict[metric] for verdict in verdicts) / len(verdicts)
                row[f"eval/{task}/{metric}"] = mean
                if len(verdicts) > 1:
                    error = math.sqrt(mean * (1 - mean) / (len(verdicts) - 1))
                    row[f"eval/{task}/{metric}_stderr"] = error
            row[f"eval/{task}/questions"] = len(verdicts)
        return row
