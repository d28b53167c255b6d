"""metrics.jsonl as columns: every number as it is, every damaged line counted and no other lost."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamac.report.metrics_file import Columns, MetricsFile

from .conftest import lines, metrics_rows


def read(path: Path, text: str | bytes) -> MetricsFile:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    file = MetricsFile(path)
    file.refresh()
    return file


def steps(file: MetricsFile) -> list[int]:
    return [int(step) for step in file.newest_rows[0].get("step", [])]


def table(columns: Columns) -> list[dict[str, float]]:
    """The rows again, without what they have not."""
    count = len(columns["step"])
    rows = [{name: float(column[n]) for name, column in columns.items()} for n in range(count)]
    return [{name: v for name, v in row.items() if not math.isnan(v)} for row in rows]


def test_every_number_is_that_of_the_file(tmp_path):
    rows = metrics_rows()
    file = read(tmp_path / "m", lines(rows))
    expected = [{k: float(v) for k, v in row.items() if v is not None} for row in rows]
    assert table(file.newest_rows[0]) == expected
    assert (file.damaged, file.unfinished, file.newest_rows[1]) == ([], False, 0)


numbers = st.floats() | st.integers(-(2**70), 2**70) | st.none()


@pytest.mark.slow
@settings(deadline=None)  # the first call imports pyarrow
@given(st.lists(st.dictionaries(st.sampled_from("abc"), numbers), min_size=1, max_size=20))
def test_any_numbers_come_back(tmp_path_factory, values):
    rows = [{"step": n} | row for n, row in enumerate(values)]
    file = read(tmp_path_factory.mktemp("rows") / "m", lines(rows))
    for row, found in zip(rows, table(file.newest_rows[0]), strict=True):
        finite = {k: float(v) for k, v in row.items() if v is not None and math.isfinite(v)}
        assert found == finite


DAMAGE = [
    *("", "null", "[]", "3", '"step"', "{}", '{"step": 3', '{"loss": 1}', '{"step": null}'),
    *('{"step": true}', '{"step": 1.5}', '{"step": "3"}', '{"step": -1}', '{"step": 1e400}'),
    *('{"step": 3, "loss": "low"}', '{"step": 3, "loss": [1]}', '{"step": 3, "loss": true}'),
    *("\x00\x00", "{" * 5000, '{"step": 3}{"step": 4}', '{"step": 3}, {"step": 4}'),
    *('{"step": 3, "loss": 1' + "0" * 400 + "}", '{"step": 1' + "0" * 30 + "}", "}{", "\udcff"),
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_damaged_line_costs_itself_and_is_counted(tmp_path, damage, place):
    good = [json.dumps({"step": n, "loss": n / 7}) for n in range(1, 6)]
    text = "\n".join([*good[:place], damage, *good[place:]]) + "\n"
    file = read(tmp_path / "m", text.encode(errors="surrogateescape"))
    assert steps(file) == [1, 2, 3, 4, 5]
    assert file.damaged == [place + 1]
    assert file.newest_rows[0]["loss"].tolist() == [n / 7 for n in range(1, 6)]


def test_two_halves_of_one_row_are_two_damaged_lines(tmp_path):
    """Joined by a comma they would be a row again."""
    file = read(tmp_path / "m", '{"step": 1}\n{"step": 2\n"loss": 3}\n{"step": 4}\n')
    assert steps(file) == [1, 4]
    assert file.damaged == [2, 3]


def test_a_line_without_an_end_is_left_for_later(tmp_path):
    file = read(tmp_path / "m", '{"step": 1}\n{"step": 2')
    assert steps(file) == [1]
    assert file.unfinished
    assert file.damaged == []
    with file.path.open("a") as more:
        more.write(', "loss": 2.5}\n{"step": 3}\n')
    assert file.refresh()
    assert steps(file) == [1, 2, 3]
    assert file.newest_rows[0]["loss"][1] == 2.5
    assert not file.unfinished
    assert not file.refresh()


def test_a_metric_that_begins_late_is_unknown_before(tmp_path):
    file = read(tmp_path / "m", '{"step": 1}\n')
    with file.path.open("a") as more:
        more.write('{"step": 2, "validation_loss": 3.5}\n{"step": 3}\n')
    file.refresh()
    assert np.array_equal(
        file.newest_rows[0]["validation_loss"], [math.nan, 3.5, math.nan], equal_nan=True
    )


def test_a_file_that_is_written_anew_is_read_anew(tmp_path):
    file = read(tmp_path / "m", lines([{"step": n} for n in range(1, 9)]))
    (tmp_path / "new").write_text(lines([{"step": n} for n in range(1, 5)]))
    (tmp_path / "new").rename(file.path)
    assert file.refresh()
    assert steps(file) == [1, 2, 3, 4]
    file.path.write_text('{"step": 1}\n')  # cut in place
    assert file.refresh()
    assert steps(file) == [1]


@pytest.mark.parametrize(
    ("written", "kept", "replaced"),
    [
        ([1, 2, 3, 4, 3, 4, 5], [1, 2, 3, 4, 5], 2),
        ([1, 2, 3, 1, 2], [1, 2], 3),
        ([5, 5, 5], [5], 2),
        ([1, 2, 3, 4, 2, 3, 3], [1, 2, 3], 4),
    ],
)
def test_steps_that_were_taken_again_count_once(tmp_path, written, kept, replaced):
    rows = [{"step": step, "loss": float(n)} for n, step in enumerate(written)]
    columns, count = read(tmp_path / "m", lines(rows)).newest_rows
    assert columns["step"].tolist() == kept
    assert count == replaced
    last = {step: float(n) for n, step in enumerate(written)}
    assert columns["loss"].tolist() == [last[step] for step in kept]


def test_blocks_end_anywhere(tmp_path, monkeypatch):
    text = lines(metrics_rows())
    whole = read(tmp_path / "m", text)
    for size in (1, 7, 350, len(text)):
        monkeypatch.setattr("llamac.report.metrics_file.BLOCK", size)
        parts = read(tmp_path / "m", text)
        assert table(parts.newest_rows[0]) == table(whole.newest_rows[0])
        assert parts.damaged == []
