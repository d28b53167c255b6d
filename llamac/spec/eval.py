"""[eval]: validation loss and a sample, while training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from llamac.spec.section import FromArray, NonEmpty, Section
from llamac.spec.units import Count
from llamac.spec.validation.errors import Problem


class Eval(Section):
    """Validation loss and a sample, while training."""

    FILES: ClassVar[tuple[str, ...]] = ("questions",)

    every: Count = Field(default=500, description="Steps between evaluations.")
    batches: Count = Field(
        default=8,
        description="Held-out batches in one evaluation, each of `batch.sequences` sequences, or "
        "as many as the validation split has.",
    )
    tasks: Annotated[tuple[NonEmpty, ...], FromArray] = Field(
        default=(),
        description="Multiple-choice tasks that every evaluation asks, such as `piqa`: their "
        "accuracies are written as `eval/TASK/METRIC`.",
    )
    questions: NonEmpty | None = Field(
        default=None,
        description="File with the questions of `tasks`, as `llamac data questions` writes it.",
    )
    task_questions: Count = Field(
        default=100, description="Questions of each task in one evaluation, the file's first ones."
    )
    task_seconds: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=60.0,
        description="Time for the questions of one evaluation: after it, no more are asked.",
    )
    prompt: str = Field(
        default="", description="Beginning of the sample that each evaluation prints."
    )
    sample_tokens: Annotated[int, Field(ge=0, le=2**20)] = Field(
        default=64,
        description="Length of the sample, tokens; 0 prints none. Several ranks make it on the CPU "
        "of rank 0, while the others wait.",
    )
    temperature: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.8, description="Sampling temperature; 0 always takes the likeliest token."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.95,
        description="Sample from the likeliest tokens that hold this much probability.",
    )

    def rules(self) -> Iterator[Problem]:
        if self.tasks and self.questions is None:
            hint = "write them with `llamac data questions --tasks NAME,… --data DIR -o FILE`"
            yield Problem(("tasks",), "tasks need eval.questions, the file to ask", hint)
        if len(set(self.tasks)) < len(self.tasks):
            yield Problem(("tasks",), "a task is named twice")
