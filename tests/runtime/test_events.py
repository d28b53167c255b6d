"""events.jsonl: whole lines whatever was there before, and never a reason to stop."""

from __future__ import annotations

import json
import os

from llamac.runtime import events


def lines(run) -> list[dict]:
    return [json.loads(line) for line in (run / events.NAME).read_text().splitlines()]


def test_an_event_says_what_happened_after_which_step(tmp_path):
    events.record(tmp_path, "save", 100)
    events.record(tmp_path, "sample", 100, text="a\nb é")
    first, second = lines(tmp_path)
    assert (first["event"], first["step"]) == ("save", 100)
    assert first["time"] > 1.7e9
    assert second["text"] == "a\nb é"


def test_a_line_cut_short_costs_itself_alone(tmp_path):
    (tmp_path / events.NAME).write_text('{"event": "sta')
    events.record(tmp_path, "save", 3)
    text = (tmp_path / events.NAME).read_text()
    assert text.startswith('{"event": "sta\n')
    assert json.loads(text.splitlines()[1])["step"] == 3
    assert text.endswith("\n")


def test_a_disk_that_takes_nothing_is_no_error(tmp_path):
    (tmp_path / events.NAME).mkdir()
    events.record(tmp_path, "save", 1)
    assert events.identity(tmp_path, 5)
    events.record(tmp_path / "nowhere", "save", 1)


def test_nothing_outside_is_written_and_a_pipe_does_not_block(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / events.NAME).symlink_to(tmp_path / "victim")
    events.record(tmp_path / "run", "save", 1)
    assert not (tmp_path / "victim").exists()
    (tmp_path / "run" / events.NAME).unlink()
    os.mkfifo(tmp_path / "run" / events.NAME)
    events.record(tmp_path / "run", "save", 1)


def test_a_run_keeps_its_identity_until_it_begins_again(tmp_path):
    first = events.identity(tmp_path, 0)
    events.record(tmp_path, "start", 0, id=first)
    (tmp_path / events.NAME).open("a").write("damaged\n[1]\n")
    assert events.identity(tmp_path, 4) == first
    assert events.identity(tmp_path, 0) != first
