"""Results of an evaluation: values with standard errors, comparison with the paper, JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamac.evaluate.tasks.known_tasks import HELDOUT
from llamac.evaluate.tasks.published_results import PAPER, PUBLISHED, SIZES
from llamac.look.text_table import TextTable

Measured = tuple[float, float | None]
"""(value, its standard error, or None if unknown)."""


@dataclass(frozen=True)
class TaskResult:
    """A model's results on one task.

    title: name in the paper, or of a held-out source. shots: few-shot examples per question.
    metric: the main metric, which the paper reports. results: all metrics by name, accuracies from
    0 to 1. questions: number of questions or held-out passages evaluated. available: number of
    these in the files. files: sha256 of each file, by path. version: of the task, increased when
    results are no longer comparable. votes: answers per question. chance: accuracy of random
    guessing, or None. skipped: numbers of invalid rows, by reason. notes: remarks for the user.
    """

    task: str
    title: str
    shots: int
    metric: str
    results: Mapping[str, Measured]
    questions: int
    available: int
    files: Mapping[str, str]
    version: int = 1
    votes: int = 1
    chance: float | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def paper(self) -> Mapping[str, float]:
        """Return the paper's results by model size, in per cent; empty if it has none.

        They are those for the same shots, and with or without votes.
        """
        row = PUBLISHED.get((self.task, self.shots, self.votes > 1))
        return dict(zip(SIZES, row, strict=True)) if row else {}

    def to_json(self) -> dict[str, Any]:
        """Return all fields but the title as JSON values, with the paper's results.

        Standard errors are under "stderr", `available` is under "of".
        """
        return {
            "task": self.task,
            "version": self.version,
            "shots": self.shots,
            "votes": self.votes,
            "metric": self.metric,
            "results": {
                name: {"value": value, "stderr": error}
                for name, (value, error) in self.results.items()
            },
            "questions": self.questions,
            "of": self.available,
            "skipped": dict(self.skipped),
            "chance": self.chance,
            "files": dict(self.files),
            "paper": dict(self.paper),
            "notes": list(self.notes),
        }


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of the values; None for fewer than two."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def results_tables(results: Sequence[TaskResult]) -> Iterator[TextTable]:
    """Yield a table of tasks beside the paper's results, in per cent, and one of held-out text.

    A table without results is left out.
    """
    tasks = [result for result in results if not result.task.startswith(f"{HELDOUT}/")]
    heldout = [result for result in results if result.task.startswith(f"{HELDOUT}/")]
    if tasks:
        head = ("task", "shots", "metric", "value", "±", "of", *SIZES)
        note = f"{SIZES[0]} to {SIZES[-1]}: {PAPER}; in per cent, ± is the standard error"
        rows = [*map(_row, tasks)]
        yield TextTable("tasks", head, rows, "<><>>>>>>>", note=note)
    if heldout:
        names = ("bits_per_byte", "perplexity", "nats_per_token")
        head = ("", *(name.replace("_", " ") for name in names), "windows")
        rows = []
        for result in heldout:
            values = (_plain(*result.results[name]) for name in names)
            rows.append((result.title, *values, f"{result.questions} of {result.available}"))
        yield TextTable("held-out text", head, rows, "<>>>>")


def _row(result: TaskResult) -> tuple[str, ...]:
    value, error = result.results[result.metric]
    of = f"{result.questions:,}" + (
        f" of {result.available:,}" if result.questions < result.available else ""
    )
    paper = (f"{result.paper[size]:.1f}" if result.paper else "" for size in SIZES)
    metric = f"{result.metric} maj@{result.votes}" if result.votes > 1 else result.metric
    spread = "" if error is None else f"{100 * error:.2f}"
    return (result.title, str(result.shots), metric, f"{100 * value:.2f}", spread, of, *paper)


def _plain(value: float, error: float | None) -> str:
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")
