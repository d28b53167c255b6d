"""`llamac eval`: what it refuses, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamac.cli import main
from llamac.evaluate.results import TaskResult, results_tables, standard_error
from llamac.look.text_table import plain_text
from tests.evaluate.conftest import PUBLISHED, questions, random_model, write_rows

__all__ = ["questions", "random_model"]  # fixtures


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tasks", "boolk"], "did you mean boolq?"),
        (["--tasks", ","], "name one of boolq"),
        (["--tasks", "piqa", "--shots", "few"], "'few' is not a list of numbers such as 0,1,5,64"),
        (["--tasks", "piqa", "--data", "nowhere"], "there is no directory nowhere"),
        (["--tasks", "piqa", "--data", "boolq=x.jsonl"], "'boolq' is not one of --tasks"),
        (["--tasks", "piqa", "--data", "piqa=x.jsonl"], "there is no such file"),
        (["--tasks", "piqa"], "piqa.jsonl"),
        (["--tasks", "humaneval"], "--allow-code"),
        (["--tasks", "heldout"], "spec.toml"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_way_out(
    arguments: list[str], says: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["eval", str(tmp_path), *arguments]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_results_samples_and_skipped_rows_are_written(
    tmp_path: Path, questions: Path, random_model: Any, capsys: Any
) -> None:
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    run, _ = random_model()
    write_rows(questions / "piqa.jsonl", [PUBLISHED["piqa"]] * 3 + [{"goal": "x"}])
    output, samples = tmp_path / "out.json", tmp_path / "asked.jsonl"
    arguments = ["eval", str(run), "--tasks", "piqa,nq", "--shots", "0,1", "--data", str(questions)]
    arguments += ["--limit", "2", "--context", "256", "-o", str(output), "--samples", str(samples)]
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert f"skipped: {questions / 'piqa.jsonl'}:4: the row has no field 'sol1'" in told.err
    assert "PIQA" in told.out
    assert "79.8" in told.out  # LLaMA 7B's
    found = json.loads(output.read_text())
    piqa = found["results"][0]
    assert piqa["skipped"] == {"the row has no field 'sol1'; its fields: goal": 1}
    assert (piqa["questions"], piqa["of"], piqa["chance"]) == (2, 3, 0.5)
    assert piqa["paper"] == {"7B": 79.8, "13B": 80.1, "33B": 82.3, "65B": 82.8}
    assert len(piqa["files"][str(questions / "piqa.jsonl")]) == 64
    assert [one["shots"] for one in found["results"]] == [0, 1, 0, 1]
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == 8
    assert rows[0]["asked"][0] == ["Question: open a jar\nAnswer:", " turn its lid"]
    assert main(arguments) == 2  # the samples are not replaced unasked
    assert "--overwrite" in capsys.readouterr().err


def test_the_table_has_the_papers_rows_and_standard_errors() -> None:
    reached = {"exact_match": (0.25, 0.01)}
    one = TaskResult("nq", "NaturalQuestions", 5, "exact_match", reached, 9, 20, {})
    title, *lines = plain_text(results_tables([one])).splitlines()
    assert title == "tasks"
    assert lines[0].split()[:6] == ["task", "shots", "metric", "value", "±", "of"]
    wanted = "NaturalQuestions 5 exact_match 25.00 1.00 9 of 20 22.0 28.1 32.9 35.0"
    assert lines[1].split() == wanted.split()
    assert standard_error([1.0, 0.0, 1.0, 0.0]) == pytest.approx(0.288675)
    assert standard_error([1.0]) is None
