"""[eval]: validation loss, tasks and a sample, computed during training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from llamac.spec.section import FromArray, NonEmpty, Section
from llamac.spec.units import Count
from llamac.spec.validation.errors import Problem


class Eval(Section):
    """Validation loss, tasks and a sample, computed during training."""

    FILES: ClassVar[tuple[str, ...]] = ("questions",)

    every: Count = Field(default=500, description="Steps between evaluations.")
    batches: Count = Field(
        default=8,
        description="Validation batches per evaluation, each of `batch.sequences` sequences; "
        "fewer if the validation split is smaller.",
    )
    tasks: Annotated[tuple[NonEmpty, ...], FromArray] = Field(
        default=(),
        description="Multiple-choice tasks scored at every evaluation, such as `piqa`; metrics "
        "are logged as `eval/TASK/METRIC`.",
    )
    questions: NonEmpty | None = Field(
        default=None,
        description="File with the questions of `tasks`, written by `llamac data questions`.",
    )
    task_questions: Count = Field(
        default=100, description="Questions per task and evaluation: the first ones of the file."
    )
    task_seconds: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=60.0,
        description="Time limit for the questions of one evaluation; the remaining ones are "
        "skipped.",
    )
    prompt: str = Field(default="", description="Prompt of the sample that each evaluation prints.")
    sample_tokens: Annotated[int, Field(ge=0, le=2**20)] = Field(
        default=64,
        description="Length of the sample, tokens; 0 prints none. With several ranks, rank 0 "
        "generates it on its CPU while the others wait.",
    )
    temperature: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.8, description="Sampling temperature; 0 is greedy."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.95,
        description="Nucleus sampling: the smallest set of tokens with this much probability.",
    )

    def rules(self) -> Iterator[Problem]:
        if self.tasks and self.questions is None:
            hint = "write them with `llamac data questions --tasks NAME,… --data DIR -o FILE`"
            yield Problem(
                ("tasks",), "eval.tasks needs eval.questions, the file of their questions", hint
            )
        if len(set(self.tasks)) < len(self.tasks):
            yield Problem(("tasks",), "a task is listed twice")
