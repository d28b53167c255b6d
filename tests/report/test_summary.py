"""What a report says of a run: the numbers of its files, its life, and what is damaged."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from llamac.report.recorded_run import ReportError, Run
from llamac.report.summary import differences, report

from .conftest import SKIPPED, STEPS, MakeRun, lines, metrics_rows


def data_of(*runs: Path) -> dict:
    data = report([Run(run) for run in runs])
    return json.loads(json.dumps(data, allow_nan=False))


def test_numbers_are_those_of_metrics_jsonl(make_run: MakeRun):
    rows = metrics_rows()
    found = data_of(make_run("run"))["runs"][0]
    assert found["curve"]["rows"] == STEPS
    for name in ("loss", "lr", "grad_norm", "mfu", "peak_memory_bytes", "step_seconds"):
        assert found["curve"]["series"][name]["mean"] == [row[name] for row in rows]
    assert found["summary"]["last"]["loss"] == rows[-1]["loss"]
    assert found["summary"]["last"]["tokens"] == rows[-1]["tokens"]
    for name in ("tokens_per_second", "mfu", "step_seconds"):
        middle = statistics.median(row[name] for row in rows)
        assert found["summary"]["median"][name] == pytest.approx(middle, rel=1e-12)
    assert found["summary"]["peak_memory_bytes"] == max(row["peak_memory_bytes"] for row in rows)
    assert found["validation"] == [
        [row["step"], row["tokens"], row["validation_loss"], row["loss"]]
        for row in rows
        if "validation_loss" in row
    ]
    assert found["skipped"] == list(SKIPPED)
    assert found["notes"] == []


def test_the_life_of_a_run(make_run: MakeRun):
    found = data_of(make_run("run"))["runs"][0]
    told = [(event["kind"], event["step"]) for event in found["events"] if event["kind"] != "save"]
    assert told == [("start", 0), ("resume", 100), ("stop", 200), ("resume", 200), ("stop", STEPS)]
    start, killed, failed, resumed, _ = (e for e in found["events"] if e["kind"] != "save")
    assert not start["killed"]
    assert killed["killed"]
    assert killed["dropped"] == 7
    assert killed["before"] == "dp_shard 4 of cuda"
    assert killed["layout"] == "tp 2 × dp_shard 2 of cuda"
    assert killed["tokens"] == 100 * 2048
    assert failed["error"] == "no space left on device"
    assert not resumed["killed"]
    assert resumed["before"] is None
    assert sum(event["kind"] == "save" for event in found["events"]) == 6
    samples = {sample["step"]: sample["text"] for sample in found["samples"]}
    assert list(samples) == [50, 100, 150, 200, 250, 300]  # that of 104 was taken back
    assert found["state"]["finished"]
    assert found["start"]["git"] == {"commit": "0123abcd", "changed": True}


def test_plans_are_compared_where_the_rows_say_so(make_run: MakeRun):
    found = data_of(make_run("without"))["runs"][0]["planned"]
    assert found == {"seconds": 0.5, "memory": 68e9, "device": "a100-80gb", "compared": False}
    predicted = {"predicted_step_seconds": 0.4, "predicted_peak_memory_bytes": 5}
    rows = [row | predicted for row in metrics_rows(20)]
    found = data_of(make_run("with", rows))["runs"][0]["planned"]
    assert found == {"seconds": 0.4, "memory": 5, "device": "a100-80gb", "compared": True}


def test_tokens_of_sources_follow_the_shares(make_run: MakeRun):
    found = data_of(make_run("run", metrics_rows(150)))["runs"][0]["sources"]
    assert not found["counted"]  # the prepared data is not there
    assert [row["name"] for row in found["rows"]] == ["python-docs", "python-source"]
    assert [row["consumed"] for row in found["rows"]] == pytest.approx([184_320, 122_880])
    assert [row["planned"] for row in found["rows"]] == pytest.approx([368_640, 245_760])


def test_evaluations_are_read_by_task_and_metric(make_run: MakeRun):
    rows = metrics_rows(40)
    for step, value in ((20, 0.25), (40, 0.375)):
        rows[step - 1] |= {"eval/piqa/acc": value, "eval/piqa/acc_stderr": 0.01}
        rows[step - 1]["eval/piqa/questions"] = 100
    rows[39]["eval/heldout/books/bits_per_byte"] = 1.5
    found = data_of(make_run("run", rows))["runs"][0]
    assert found["evaluations"] == [
        {
            "task": "heldout/books",
            "metric": "bits_per_byte",
            "questions": None,
            "rows": [[40, 40 * 2048, 1.5, None]],
        },
        {
            "task": "piqa",
            "metric": "acc",
            "questions": 100,
            "rows": [[20, 20 * 2048, 0.25, 0.01], [40, 40 * 2048, 0.375, 0.01]],
        },
    ]
    assert not [name for name in found["curve"]["series"] if name.startswith("eval/")]


def test_specs_differ_where_they_do(make_run: MakeRun):
    first = make_run("first")
    second = make_run("second", changes=("optimizer.lr=0.001", "log.wandb=p"))
    assert data_of(first, second)["differences"] == [
        {"key": "optimizer.lr", "values": ["0.002", "0.001"]},
        {"key": "log.wandb", "values": [None, '"p"']},
    ]
    assert data_of(first, first)["differences"] == []


def test_entries_of_lists_are_compared_by_name():
    specs = [
        {"data": {"source": [{"name": "a", "share": 1}, {"name": "b", "share": 2}]}},
        {"data": {"source": [{"name": "b", "share": 3}, {"name": "a", "share": 1}]}},
    ]
    assert differences(specs) == [{"key": "data.source.b.share", "values": ["2", "3"]}]


# --- Damaged and unfinished runs ----------------------------------------------------------------


def test_damaged_rows_are_counted_and_said(make_run: MakeRun):
    text = lines(metrics_rows(3)) + "damaged\n{}\n" + lines(metrics_rows(5)[3:]) + '{"step": 6, '
    found = data_of(make_run("run", text))["runs"][0]
    assert found["curve"]["step"] == [1, 2, 3, 4, 5]
    assert found["notes"] == [
        "2 damaged lines in metrics.jsonl, from line 4 on: left out",
        "the last line of metrics.jsonl is incomplete: left out",
    ]


DAMAGED = ["", "\x00\x00", "{", "[1]", "null", '{"memory": 3}', '{"step_seconds": "x"}', "é\udc80"]


@pytest.mark.parametrize("text", DAMAGED)
@pytest.mark.parametrize("name", ["spec.toml", "plan.json", "events.jsonl", "MANIFEST.json"])
def test_any_other_file_may_be_damaged(make_run: MakeRun, name, text):
    run = make_run("run")
    (run / name).write_bytes(text.encode(errors="surrogateescape"))
    found = data_of(run)["runs"][0]
    assert found["curve"]["rows"] == STEPS
    assert all(note.endswith(("left out", "without it", "as it is")) for note in found["notes"])


@pytest.mark.parametrize(
    "event", [{"layout": 3}, {"layout": {"tp": "x"}}, {"error": 5}, {"time": None}]
)
def test_events_of_odd_kinds_do_no_harm(make_run: MakeRun, event):
    happened = [{"event": kind, "step": 5, **event} for kind in ("start", "stop", "save", "new")]
    assert data_of(make_run("run", None, happened))["runs"][0]["curve"]["rows"] == STEPS


@pytest.mark.parametrize("name", ["spec.toml", "plan.json", "events.jsonl", "metrics.jsonl"])
def test_any_file_may_be_missing(make_run: MakeRun, name):
    run = make_run("run")
    (run / name).unlink()
    found = data_of(run)["runs"][0]
    assert found["curve"]["rows"] == (0 if name == "metrics.jsonl" else STEPS)


def test_a_run_that_has_only_begun(make_run: MakeRun):
    run = make_run("run", "", [])
    found = data_of(run)["runs"][0]
    assert found["state"]["step"] == 0
    assert not found["state"]["finished"]
    assert found["summary"] == {}


def test_saves_of_an_older_trainer_are_its_checkpoints(make_run: MakeRun):
    run = make_run("run", metrics_rows(250), [])
    for step in (100, 200):
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    found = data_of(run)["runs"][0]["events"]
    assert [(event["kind"], event["step"]) for event in found] == [("save", 100), ("save", 200)]


def test_the_spec_may_be_where_the_trainer_lies(make_run: MakeRun, tmp_path):
    """`train.py --run DIR` leaves rows and events in DIR alone."""
    emitted = make_run("emitted")
    run = tmp_path / "elsewhere"
    run.mkdir()
    (run / "metrics.jsonl").write_text(lines(metrics_rows(10)))
    (run / "events.jsonl").write_text(
        lines([{"event": "start", "step": 0, "directory": str(emitted)}])
    )
    found = data_of(run)["runs"][0]
    assert found["steps"] == STEPS
    assert found["planned"]["seconds"] == 0.5


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ReportError, match="no directory"):
        Run(tmp_path / "nowhere")
    with pytest.raises(ReportError, match="is not a run: it has none of"):
        Run(tmp_path)


def test_a_run_is_read_on_as_it_grows(make_run: MakeRun):
    path = make_run("run", metrics_rows(10))
    run = Run(path)
    assert not run.refresh()
    with (path / "metrics.jsonl").open("a") as file:
        file.write(lines(metrics_rows(12)[10:]))
    assert run.refresh()
    assert report([run])["runs"][0]["state"]["step"] == 12
