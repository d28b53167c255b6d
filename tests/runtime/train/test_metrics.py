"""metrics.jsonl stays one clean curve; the display says what it should, literally."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import sys

import pytest

from llamac.runtime.train.metrics import Display, Metrics, duration, stage_printer, step_line


def row(step: int, **more) -> dict:
    common = {"loss": 2.0, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 5e3, "mfu": 0.5}
    return {"step": step, **common, "step_seconds": 2.0, **more}


def steps(path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def write(run, *rows, resumed: int, tensorboard: bool = False) -> None:
    with Metrics(run, resumed=resumed, tensorboard=tensorboard) as metrics:
        for each in rows:
            metrics.write(each)
        metrics.sync()


def test_resuming_drops_the_rows_beyond_it_and_goes_on(tmp_path):
    write(tmp_path, *map(row, range(1, 7)), resumed=0)
    write(tmp_path, row(4, loss=9.0), resumed=3)
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["loss"] == 9.0


@pytest.mark.parametrize("tail", ['{"step": 3, "lo', '{"step": 3}', "[]\n", "\x00\x00\n", "\n"])
def test_a_line_cut_short_by_a_crash_goes(tmp_path, tail):
    write(tmp_path, row(1), row(2), resumed=0)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(tail)
    write(tmp_path, row(3), resumed=9)
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3]


def test_rows_are_on_disk_as_soon_as_written(tmp_path):
    with Metrics(tmp_path, resumed=0, tensorboard=False) as metrics:
        metrics.write(row(1))
        assert steps(tmp_path / "metrics.jsonl") == [1]


def events(run) -> list[tuple]:
    lines = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [(line["event"], line["step"]) for line in lines]


def test_starts_samples_and_stops_are_events(tmp_path):
    with Metrics(tmp_path, 0, {"layout": {"tp": 2}}) as metrics:
        metrics.write(row(1))
        assert metrics.sample("once upon") == "sample after step 1: once upon"
        metrics.write(row(2))
    with contextlib.suppress(ValueError), Metrics(tmp_path, 1) as metrics:
        metrics.write(row(2))
        raise ValueError("too hot")
    assert events(tmp_path) == [
        *(("start", 0), ("sample", 1), ("stop", 2)),
        *(("start", 1), ("stop", 2)),
    ]
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert lines[0]["layout"] == {"tp": 2}
    assert lines[3]["dropped_rows"] == 1
    assert lines[0]["id"] == lines[3]["id"]
    assert "error" not in lines[2]
    assert lines[4]["error"] == "too hot"


def test_what_is_not_finite_is_null_because_json_has_no_nan(tmp_path):
    write(tmp_path, row(1, loss=float("nan"), grad_norm=float("inf")), resumed=0)
    written = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert written["loss"] is None
    assert written["grad_norm"] is None


def test_tensorboard_gets_the_scalars(tmp_path):
    write(tmp_path, row(1), row(2), resumed=0, tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2]


def test_without_a_terminal_there_is_a_line_every_few_steps_and_at_the_end(capsys):
    with Display(0, 7, 3) as display:
        for step in range(1, 8):
            display.step(row(step))
    printed = [line.split(" ·")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["step 3/7", "step 6/7", "step 7/7"]


def test_a_slow_first_step_does_not_spoil_the_eta(capsys):
    with Display(0, 12, 1) as display:
        display.step(row(1, step_seconds=600.0))
        display.step(row(2, step_seconds=3.0))
    assert "ETA 0:00:30" in capsys.readouterr().out.splitlines()[-1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch) -> Terminal:
    """A terminal of 80 columns in stdout's place (not a fixture: pytest would take it back)."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return terminal


def test_evaluations_stay_on_a_terminal_and_other_steps_do_not(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with Display(0, 4, 1) as display:
        display.step(row(1))
        display.step(row(2, validation_loss=1.5))
        display.step(row(3))
    printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    stays = [one for one in re.split(r"[\r\n]", printed) if one.endswith("validation 1.5000")]
    assert len(stays) == 1
    assert stays[0].startswith("step 2/4 · loss")


def test_a_run_may_have_no_stdout_at_all(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)  # as after `>&-`
    with Display(0, 4, 1) as display:
        display.step(row(1))
    assert display._live is None


def test_the_eta_is_visible_at_eighty_columns(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with Display(0, 1_000_000, 1) as display:
        display.step(row(119_999))
        display.step(row(120_000))
    assert "ETA 20d 8:53:20" in terminal.getvalue()


def test_there_is_no_eta_before_a_step_that_did_not_compile(capsys):
    with Display(0, 9, every=1) as display:
        display.step(row(1, step_seconds=20.0))
        assert "ETA" not in capsys.readouterr().out
        display.step(row(2, step_seconds=1.0))
    assert "ETA 0:00:07" in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_the_line_fits_and_leaves_out_what_matters_least(width: int):
    planned = {"predicted_step_seconds": 2.0, "predicted_peak_memory_bytes": 5e9}
    full = row(333_000, skipped_steps=2, peak_memory_bytes=6e9, **planned)
    line = step_line(full, 333_787, 360_000.0, width)
    assert len(line) <= width
    assert line.startswith("step 333,000/333,787 ·")
    assert "SKIPPED" in line or width < 50
    assert ("planned" in line) == (width >= 160)


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_the_live_line_is_one_line(monkeypatch, columns):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", columns)
    with Display(0, 333_787, 1) as display:
        display.step(row(332_999))
        display.step(row(333_000))
        assert display._live is not None
        display._live.refresh()
    printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    shown = [line for line in re.split(r"[\r\n]", printed) if " · " in line]
    assert shown
    for line in shown:  # none is the rest of another
        assert len(line.rstrip()) <= int(columns)
        assert re.search(r"% +step 33", line)


def test_on_a_terminal_the_line_is_live_and_text_is_never_markup(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with Display(0, 4, 10) as display:
        display.step(row(1))
        display.log("sample: [bold]a[/nonsense] {x}")
    assert "sample: [bold]a[/nonsense] {x}" in terminal.getvalue()
    assert "step 1/4" in terminal.getvalue()


def test_a_step_in_one_line():
    line = step_line(row(1200, validation_loss=1.5, skipped_steps=2), 5000, 3600.0)
    assert line == (
        "step 1,200/5,000 · loss 2.0000 · ETA 1:00:00 · lr 1.00e-03 · norm 1.00 · 5,000 tok/s · "
        "MFU 50.0% · validation 1.5000 · SKIPPED"
    )


def test_durations():
    assert [duration(s) for s in (0, 61, 4000, 90061)] == [
        "0:00:00",
        "0:01:01",
        "1:06:40",
        "1d 1:01:01",
    ]


def test_each_stage_is_said_once():
    said: list[str] = []
    progress = stage_printer(said.append)
    for stage, done in [("a", 0), ("a", 5), ("b", 0), ("b", 9)]:
        progress(stage, done)
    assert said == ["a …", "b …"]


# -- what goes wrong with what is for people ends no run ------------------------------------------


def test_damaged_rows_are_left_out_and_said(tmp_path, capsys):
    write(tmp_path, *map(row, range(1, 5)), resumed=0)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(True)
    damaged = ['{"step": 2, "l\n', '{"step": true}\n', "[" * 100_000 + "\n", '{"step": "x"}\n']
    path.write_text("".join([lines[0], *damaged, *lines[1:]]))
    write(tmp_path, row(5), resumed=4)
    assert steps(path) == [1, 2, 3, 4, 5]
    said = capsys.readouterr().out
    assert said.count("4 damaged rows, from line 2 on") == said.count("\n") == 1


def test_a_full_disk_is_said_once_and_rows_follow_when_there_is_room(tmp_path, capsys, monkeypatch):
    with Metrics(tmp_path, resumed=0, tensorboard=False) as metrics:
        metrics.write(row(1))
        real, full = metrics._file, Full()
        assert real is not None
        monkeypatch.setattr(metrics, "_file", full)
        metrics.write(row(2))
        metrics.write(row(3))
        monkeypatch.setattr(metrics, "_file", real)
        real.write(full.taken)  # a part of a row may fit
        metrics.write(row(4))
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4]
    assert capsys.readouterr().out.count("cannot be written (No space left on device)") == 1


class Full:
    """A disk with room for ten bytes."""

    taken = b""

    def write(self, data: bytes) -> int:
        if self.taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.taken = data[:10]
        return 10


def test_links_out_of_the_run_are_not_followed(tmp_path, capsys):
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    run.mkdir()
    (victim / "file").write_text("precious\n")
    (run / "metrics.jsonl").symlink_to("../victim/file")
    (run / "tensorboard").symlink_to("../victim")
    write(run, row(1), resumed=0, tensorboard=True)
    assert steps(run / "metrics.jsonl") == [1]
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to("../victim/new")
    write(run, row(1), resumed=0, tensorboard=True)
    assert [(p.name, p.read_text()) for p in victim.iterdir()] == [("file", "precious\n")]
    assert "tensorboard is a symbolic link that leads out of" in capsys.readouterr().out


@pytest.mark.parametrize("when", ["made", "written", "closed", "missing"])
def test_tensorboard_may_fail_at_any_time(tmp_path, capsys, monkeypatch, when):
    from torch.utils import tensorboard

    class Writer:
        def __init__(self, *_, **__) -> None:
            self.fail("made")

        def add_scalar(self, *_) -> None:
            self.fail("written")

        def close(self) -> None:
            self.fail("closed")

        def fail(self, at: str) -> None:
            if at == when:
                raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")

    monkeypatch.setattr(tensorboard, "SummaryWriter", Writer)
    if when == "missing":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    write(tmp_path, row(1), row(2), resumed=0, tensorboard=True)
    assert steps(tmp_path / "metrics.jsonl") == [1, 2]
    assert capsys.readouterr().out.count("TensorBoard's files cannot be written") == 1


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_stands_in_the_place_of_the_rows_is_told(tmp_path, capsys, make):
    make(tmp_path / "metrics.jsonl")
    with Metrics(tmp_path, 0, tensorboard=False) as metrics:
        metrics.write(row(1))
        metrics.sync()
    said = capsys.readouterr().out
    assert said.count("metrics.jsonl") == 1
    assert ": the run continues without it; to record its rows, " in said
