"""Read a task's questions from local files in their published formats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamac.evaluate.tasks.question import BadRowError, EvalTask, Question
from llamac.runtime import durable_files
from llamac.runtime.data.sources.decompress import lines, package, utf8_chunks
from llamac.runtime.data.sources.skipped_records import Skipped

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
"""Endings of question files, in the order in which they are sought."""

EXAMPLES_MARK = ".examples"  # before the ending of a file of few-shot examples


class NoQuestionsError(Exception):
    """A task has no question file or no valid row, or a trainer needs multiple choice.

    exit_code: status with which the command exits.
    """

    exit_code = 2


@dataclass(frozen=True)
class QuestionSet:
    """Questions of a task, and its pool of few-shot examples.

    files: sha256 of each file, by path. skipped: counts of invalid rows, by reason.
    """

    task: EvalTask
    questions: Sequence[Question]
    examples: Sequence[Question]
    files: Mapping[str, str]
    skipped: Skipped = field(default_factory=Skipped)

    @property
    def examples_from_questions(self) -> bool:
        """Return whether few-shot examples come from the questions themselves."""
        return self.examples is self.questions


def load_questions(
    task: EvalTask, data: Path | None, task_files: Mapping[str, Path]
) -> QuestionSet:
    """Read a task's questions from `task_files[task.name]`, or else from directory `data`.

    In `data` they are in NAME.jsonl (.gz, .zst) or NAME.parquet, or in files in NAME/ whose names
    begin with the split. Examples are in NAME.examples.jsonl (etc.), or in NAME/ under their own
    split; without such files, or with `task_files`, the questions themselves are the examples.
    Raises NoQuestionsError if a file is missing or of another type, or has no valid question.
    """
    paths = _question_paths(task, data, task_files)
    if not paths:
        raise NoQuestionsError(expected_files(task, data))
    skipped = Skipped()
    questions = list(_questions(task, paths, skipped))
    if not questions:
        why = "".join(f"\n  {example}" for example in skipped.examples[:5]) or "\n  they are empty"
        raise NoQuestionsError(
            f"{task.name}: no question in {', '.join(map(str, paths))}:{why}\n{_fields(task)}"
        )
    example_paths = (
        [] if task.name in task_files else _find_files(task, data, EXAMPLES_MARK, task.examples)
    )
    examples = list(_questions(task, example_paths, skipped)) or questions
    files = {str(path): durable_files.sha256_of(path) for path in [*paths, *example_paths]}
    return QuestionSet(task, questions, examples, files, skipped)


def expected_files(task: EvalTask, data: Path | None) -> str:
    """Return a message that says where a task's questions are expected, and in which format.

    data: directory in which they were sought; None if the user gave none.
    """
    place = data or Path("DIR")
    missing = f"{data} has no questions of {task.name}" if data else "give --data DIR"
    return (
        f"{task.name}: {missing}: put {place / task.name}.jsonl (or .jsonl.gz, .parquet) there, or "
        f"a directory {place / task.name}/ with files {task.split}*.jsonl or .parquet, or give "
        f"--data {task.name}=FILE. It is published as {task.source}, split {task.split}.\n"
        f"{_fields(task)}"
    )


def _fields(task: EvalTask) -> str:
    fields = "".join(f"\n  {name}: {holds}" for name, holds in task.fields.items())
    return f"Each row holds:{fields}"


def _question_paths(
    task: EvalTask, data: Path | None, task_files: Mapping[str, Path]
) -> list[Path]:
    if (path := task_files.get(task.name)) is None:
        return _find_files(task, data, "", task.split)
    if not path.is_file():
        raise NoQuestionsError(f"--data {task.name}={path}: there is no such file")
    if not path.name.endswith(ENDINGS):
        raise NoQuestionsError(f"--data {task.name}={path}: known: {', '.join(ENDINGS)}")
    return [path]


def _find_files(task: EvalTask, data: Path | None, mark: str, split: str) -> list[Path]:
    if data is None:
        return []
    for ending in ENDINGS:
        if (path := data / f"{task.name}{mark}{ending}").is_file():
            return [path]
    inside = sorted((data / task.name).rglob(f"{split}*"))
    return [path for path in inside if path.is_file() and path.name.endswith(ENDINGS)]


def _questions(task: EvalTask, paths: Sequence[Path], skipped: Skipped) -> Iterator[Question]:
    for path in paths:
        read = _parquet if path.name.endswith(".parquet") else _json_lines
        for number, row in read(path, skipped):
            where = f"{path}:{number}"
            if not isinstance(row, dict):
                skipped.add(f"a row must be an object, not {type(row).__name__}", where)
                continue
            try:
                yield task.read(row)
            except BadRowError as error:
                skipped.add(str(error), where)


def _json_lines(path: Path, skipped: Skipped) -> Iterator[tuple[int, Any]]:
    name = str(path)
    for number, line in lines(utf8_chunks(name, skipped), name, skipped):
        if line.isspace():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            skipped.add(f"not JSON ({error})", f"{path}:{number}")


def _parquet(path: Path, skipped: Skipped) -> Iterator[tuple[int, Any]]:
    arrow, parquet = package("pyarrow", str(path)), package("pyarrow.parquet", str(path))
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, ValueError, arrow.ArrowException) as error:
        skipped.add(f"broken parquet ({error})", str(path))
