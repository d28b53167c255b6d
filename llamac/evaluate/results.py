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
"""A value and its standard error, None if unknown."""


@dataclass(frozen=True)
class TaskResult:
    """A model's results on one task.

    results: metric → value and standard error. metric: the paper's metric. questions:
    number answered; of: number asked. skipped: reason → rows left out. chance: accuracy of
    guessing. files: path → sha256.
    """

    task: str
    title: str
    shots: int
    metric: str
    results: Mapping[str, Measured]
    questions: int
    of: int
    files: Mapping[str, str]
    version: int = 1
    votes: int = 1
    chance: float | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def paper(self) -> Mapping[str, float]:
        """Return LLaMA's results with the same number of examples in per cent; empty if unknown."""
        row = PUBLISHED.get((self.task, self.shots, self.votes > 1))
        return dict(zip(SIZES, row, strict=True)) if row else {}

    def to_json(self) -> dict[str, Any]:
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
            "of": self.of,
            "skipped": dict(self.skipped),
            "chance": self.chance,
            "files": dict(self.files),
            "paper": dict(self.paper),
            "notes": list(self.notes),
        }


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def results_tables(results: Sequence[TaskResult]) -> Iterator[TextTable]:
    """Yield a table of tasks, in per cent beside LLaMA's, and one of held-out text."""
    tasks = [one for one in results if not one.task.startswith(f"{HELDOUT}/")]
    heldout = [one for one in results if one.task.startswith(f"{HELDOUT}/")]
    if tasks:
        head = ("task", "shots", "metric", "value", "±", "of", *SIZES)
        note = f"{SIZES[0]} to {SIZES[-1]}: {PAPER}; in per cent, ± is the standard error"
        rows = [*map(_row, tasks)]
        yield TextTable("tasks", head, rows, "<><>>>>>>>", note=note)
    if heldout:
        names = ("bits_per_byte", "perplexity", "nats_per_token")
        head = ("", *(name.replace("_", " ") for name in names), "windows")
        rows = []
        for one in heldout:
            values = (_plain(*one.results[name]) for name in names)
            rows.append((one.title, *values, f"{one.questions} of {one.of}"))
        yield TextTable("held-out text", head, rows, "<>>>>")


def _row(one: TaskResult) -> tuple[str, ...]:
    value, error = one.results[one.metric]
    of = f"{one.questions:,}" + (f" of {one.of:,}" if one.questions < one.of else "")
    paper = (f"{one.paper[size]:.1f}" if one.paper else "" for size in SIZES)
    metric = f"{one.metric} maj@{one.votes}" if one.votes > 1 else one.metric
    spread = "" if error is None else f"{100 * error:.2f}"
    return (one.title, str(one.shots), metric, f"{100 * value:.2f}", spread, of, *paper)


def _plain(value: float, error: float | None) -> str:
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")
