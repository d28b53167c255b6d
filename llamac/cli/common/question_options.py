"""Options that name evaluation tasks and the files of their questions."""

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
    """Load the questions of --tasks, a comma-separated list, from the places in --data.

    Raises typer.BadParameter if a task or place is invalid, and NoQuestionsError if a task has no
    valid question. The questions of task `heldout` are not in files: it is not allowed.
    """
    names = task_names(tasks, ())
    return load_sets(names, *question_places(data, names))


def load_sets(
    names: Sequence[str], directory: Path | None, files: Mapping[str, Path]
) -> list[QuestionSet]:
    """Load the questions of tasks, and print to stderr how many rows were skipped, with examples.

    names: keys of `TASKS`. directory: where to look for the tasks' files, or None. files: files of
    single tasks, by task name. Raises NoQuestionsError if a task has no valid question.
    """
    from llamac.evaluate.question_files import load_questions

    sets = [load_questions(TASKS[name], directory, files) for name in names]
    for one in sets:
        for example in one.skipped.examples[:5]:
            print_status(f"skipped: {example}")
        if total := sum(one.skipped.counts.values()):
            print_status(f"{one.task.name}: {total} rows skipped, {len(one.questions)} used")
    return sets


def task_names(tasks: str, extra: tuple[str, ...] = (HELDOUT,)) -> list[str]:
    """Return the distinct task names of --tasks, a comma-separated list.

    extra: names allowed in addition to `TASKS`. Raises typer.BadParameter if a name is unknown or
    there is none.
    """
    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    known = [*TASKS, *extra]
    if unknown := [name for name in names if name not in known]:
        from difflib import get_close_matches

        close = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        raise typer.BadParameter(f"unknown task {unknown[0]!r}; {hint}", param_hint="--tasks")
    if not names:
        raise typer.BadParameter(f"name one of {', '.join(known)}", param_hint="--tasks")
    return names


def question_places(data: list[str], names: list[str]) -> tuple[Path | None, dict[str, Path]]:
    """Return (directory in --data or None, files that --data names for single tasks).

    data: values of --data, each a directory, the last of which counts, or TASK=FILE.
    names: names in --tasks.
    Raises typer.BadParameter for a directory that does not exist or a task not in `names`.
    """
    directory, files = None, {}
    for place in data:
        name, mark, file = place.partition("=")
        if mark and name in names:
            files[name] = Path(file)
        elif mark and not Path(place).exists():
            raise typer.BadParameter(f"{name!r} is not one of --tasks", param_hint="--data")
        elif not Path(place).is_dir():
            raise typer.BadParameter(f"there is no directory {place}", param_hint="--data")
        else:
            directory = Path(place)
    return directory, files
