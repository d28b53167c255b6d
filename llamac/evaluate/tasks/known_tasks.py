"""All tasks of `llamac eval`, by name."""

from __future__ import annotations

from collections.abc import Mapping

from llamac.evaluate.tasks.answer_tasks import ANSWERS
from llamac.evaluate.tasks.choice_tasks import CHOICES
from llamac.evaluate.tasks.question import EvalTask

TASKS: Mapping[str, EvalTask] = {task.name: task for task in (*CHOICES, *ANSWERS)}
"""Tasks with questions, by name; `HELDOUT` is not among them."""

HELDOUT = "heldout"
"""Task that evaluates a run's own held-out text; its results are named heldout/SOURCE."""
