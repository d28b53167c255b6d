"""Where questions are found, and what is said of files and rows that cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from llamac.evaluate.question_files import NoQuestionsError, load_questions
from llamac.evaluate.tasks.known_tasks import TASKS
from tests.evaluate.conftest import PUBLISHED, write_rows

PIQA, ROW = TASKS["piqa"], PUBLISHED["piqa"]


def test_bad_rows_are_counted_with_their_place_and_never_asked(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "piqa.jsonl", [ROW, {**ROW, "label": 5}, [1], ROW])
    path.write_text(path.read_text() + "not json\n\n" + json.dumps({"goal": "x"}) + "\n")
    found = load_questions(PIQA, tmp_path, {})
    assert len(found.questions) == 2
    assert sum(found.skipped.counts.values()) == 4
    places = [example.partition(": ")[0] for example in found.skipped.examples]
    assert places == [f"{path}:{line}" for line in (2, 3, 5, 7)]
    assert "label" in found.skipped.examples[0]
    assert "sol1" in found.skipped.examples[3]


def test_published_layouts_are_found_and_hashed(tmp_path: Path) -> None:
    other = {**ROW, "goal": "close a jar"}
    write_rows(tmp_path / "piqa/data/validation-00000.jsonl", [ROW])
    write_rows(tmp_path / "piqa/data/train-00000.jsonl", [other])
    found = load_questions(PIQA, tmp_path, {})
    assert [one.prompt for one in found.questions] == ["Question: open a jar\nAnswer:"]
    assert [one.prompt for one in found.examples] == ["Question: close a jar\nAnswer:"]
    assert not found.examples_from_questions
    assert len(found.files) == 2
    assert all(len(digest) == 64 for digest in found.files.values())


def test_compressed_files_and_parquet(tmp_path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    packed = tmp_path / "one/piqa.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(json.dumps(ROW).encode() + b"\n"))
    parquet.write_table(arrow.Table.from_pylist([ROW, ROW]), tmp_path / "x.parquet")
    assert len(load_questions(PIQA, packed.parent, {}).questions) == 1
    found = load_questions(PIQA, None, {"piqa": tmp_path / "x.parquet"})
    assert len(found.questions) == 2
    assert found.examples_from_questions
    (tmp_path / "x.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(NoQuestionsError, match="broken parquet"):
        load_questions(PIQA, None, {"piqa": tmp_path / "x.parquet"})


@pytest.mark.parametrize("name", TASKS)
def test_a_missing_file_is_told_with_its_names_and_fields(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    with pytest.raises(NoQuestionsError) as raised:
        load_questions(task, tmp_path, {})
    told = str(raised.value)
    says = [f"{tmp_path / name}.jsonl", task.source, task.split, *task.fields]
    assert all(one in told for one in says)


def test_a_file_without_any_usable_row_is_an_error_that_names_rows(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "piqa.jsonl", [{"goal": "x"}])
    with pytest.raises(NoQuestionsError, match=f"{path}:1: the row has no field 'sol1'"):
        load_questions(PIQA, tmp_path, {})
    path.write_text("")
    with pytest.raises(NoQuestionsError, match="no question"):
        load_questions(PIQA, tmp_path, {})
