"""Tables of `plan` on a terminal of 80 columns, and in a pipe."""

from __future__ import annotations

import io
import re

import pytest

from llamac.plan.render.prediction_tables import ReportTable, show_sections

LAYOUT = "tp8,pp4,vpp2,dp8,rep2,mb1,budget81.6GB"
TABLE = ReportTable(
    "fastest first",
    ("", "layout", "tok/s/GPU", "MFU", "days", "GB", "a step", "compute", "tensor", "bubble"),
    [("1", LAYOUT, "13,455", "58.3 %", "53.8", "64.27", "19.482", "18.959", "0.000", "0.285")],
    "><>>>>>>>>",
    note="What the letters mean is said here, in a line that is longer than eighty columns are.",
    spare=3,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [80, 107, 108, 160])
def test_a_table_keeps_to_the_terminal(monkeypatch, columns):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    show_sections(["a line " * 20], [TABLE])
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert max(map(len, text.splitlines())) <= columns
    assert "".join(text.split()).count("13,455") == 1
    assert all(number in text for number in ("58.3 %", "64.27", "19.482"))
    assert ("18.959" in text) == (columns >= 108)
    assert ("make the terminal 108 columns wide" in " ".join(text.split())) == (columns < 108)


def test_a_pipe_has_every_column_on_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    show_sections([], [TABLE])
    assert any(LAYOUT in line and "0.285" in line for line in capsys.readouterr().out.splitlines())
