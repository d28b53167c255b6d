"""Options that name tasks and where their questions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llamac.cli.common.options import print_status
from llamac.evaluate.tasks.known_tasks import HELDOUT, TASKS

if TYPE_CHECKING:
    from llamac.evaluate.question_files import QuestionSet


def load_question_sets(tasks: str, data: list[str]) -> list[QuestionSet]:
    """Read the questions of --tasks from --data. Raises typer.BadParameter, NoQuestionsError."""
    names = task_names(tasks, ())
    return load_sets(names, *question_places(data, names))


def load_sets(
    names: Sequence[str], directory: Path | None, given: Mapping[str, Path]
) -> list[QuestionSet]:
    """Read the questions of tasks; print the number of skipped rows, with the first five."""
    from llamac.evaluate.question_files import load_questions

    sets = [load_questions(TASKS[name], directory, given) for name in names]
    for one in sets:
        for example in one.skipped.examples[:5]:
            print_status(f"skipped: {example}")
        if total := sum(one.skipped.counts.values()):
            print_status(f"{one.task.name}: {total} rows skipped, {len(one.questions)} used")
    return sets


def task_names(tasks: str, more: tuple[str, ...] = (HELDOUT,)) -> list[str]:
    """Return the distinct tasks named on the command line. Raises typer.BadParameter."""
    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    known = [*TASKS, *more]
    if unknown := [name for name in names if name not in known]:
        from difflib import get_close_matches

        close = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        raise typer.BadParameter(f"unknown task {unknown[0]!r}; {hint}", param_hint="--tasks")
    if not names:
        raise typer.BadParameter(f"name one of {', '.join(known)}", param_hint="--tasks")
    return names


def question_places(data: list[str], names: list[str]) -> tuple[Path | None, dict[str, Path]]:
    """Return the directory of --data and the files that it gives for single tasks."""
    directory, given = None, {}
    for place in data:
        name, mark, file = place.partition("=")
        if mark and name in names:
            given[name] = Path(file)
        elif mark and not Path(place).exists():
            raise typer.BadParameter(f"{name!r} is none of --tasks", param_hint="--data")
        elif not Path(place).is_dir():
            raise typer.BadParameter(f"there is no directory {place}", param_hint="--data")
        else:
            directory = Path(place)
    return directory, given
