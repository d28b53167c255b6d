"""Reading of a task's questions from local files in their published formats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamac.evaluate.tasks.question import BadRowError, EvalTask, Question
from llamac.runtime import durable_files
from llamac.runtime.data.sources.decompress import lines, package, utf8_chunks
from llamac.runtime.data.sources.skipped import Skipped

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
EXAMPLES_MARK = ".examples"


class NoQuestionsError(Exception):
    """A task's file is missing or has no valid question; the message describes its format."""

    exit_code = 2


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a task, and the pool of few-shot examples.

    files: path → sha256. skipped: rows that were left out, and why.
    """

    task: EvalTask
    questions: Sequence[Question]
    examples: Sequence[Question]
    files: Mapping[str, str]
    skipped: Skipped = field(default_factory=Skipped)

    @property
    def examples_are_asked(self) -> bool:
        """Return whether few-shot examples come from the questions themselves."""
        return self.examples is self.questions


def load_questions(task: EvalTask, data: Path | None, given: Mapping[str, Path]) -> QuestionSet:
    """Read a task's questions from `given[task.name]`, or else from directory `data`.

    There it is NAME.jsonl (.gz, .zst) or NAME.parquet, or files in NAME/ whose names begin with the
    split. Examples are in NAME.examples.jsonl (…), or in NAME/ under their own split. Raises
    NoQuestionsError.
    """
    asked = _asked(task, data, given)
    if not asked:
        raise NoQuestionsError(wanted(task, data))
    skipped = Skipped()
    questions = list(_questions(task, asked, skipped))
    if not questions:
        why = "".join(f"\n  {one}" for one in skipped.examples[:5]) or "\n  they are empty"
        raise NoQuestionsError(
            f"{task.name}: no question in {', '.join(map(str, asked))}:{why}\n{_fields(task)}"
        )
    others = [] if task.name in given else _found(task, data, EXAMPLES_MARK, task.examples)
    examples = list(_questions(task, others, skipped)) or questions
    files = {str(path): durable_files.sha256_of(path) for path in [*asked, *others]}
    return QuestionSet(task, questions, examples, files, skipped)


def wanted(task: EvalTask, data: Path | None) -> str:
    """Return a message on where a task's questions are expected."""
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


def _asked(task: EvalTask, data: Path | None, given: Mapping[str, Path]) -> list[Path]:
    if (path := given.get(task.name)) is None:
        return _found(task, data, "", task.split)
    if not path.is_file():
        raise NoQuestionsError(f"--data {task.name}={path}: there is no such file")
    if not path.name.endswith(ENDINGS):
        raise NoQuestionsError(f"--data {task.name}={path}: known: {', '.join(ENDINGS)}")
    return [path]


def _found(task: EvalTask, data: Path | None, mark: str, split: str) -> list[Path]:
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
