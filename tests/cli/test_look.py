"""The commands on a terminal of 80 columns, on one that takes no escape codes, and in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from llamac.cli import main

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MOVES = re.compile(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]")  # all but colours
COMMANDS = {
    "check": ["check", "65b"],
    "check: errors": ["check", "tiny", "--set", "model.dimm=3"],
    "plan": ["plan", "65b", "--ops", "--collectives"],
    "plan --search": ["plan", "7b", "--gpus", "8", "--search", "--top", "3"],
    "plan --why": ["plan", "7b", "--gpus", "8", "--why", "tp8,mb1", "dp8,mb1"],
    "plan --why-not": ["plan", "7b", "--gpus", "8", "--why-not", "2x"],
    "plan --compute": ["plan", "--compute", "1e22"],
    "inspect --memory": ["inspect", "65b", "--memory"],
    "inspect --schedule": ["inspect", "65b", "--schedule"],
    "inspect --diff": ["inspect", "tiny", "--diff", "lower", "pack", "--region", "head"],
    "data epochs": ["data", "epochs", "65b"],
    "verify": ["verify", "tiny"],
}
NOT_TABLES = {"inspect --diff"}  # lines of the IR are never wrapped
FAILS = {"check: errors": 2}


def on_a_terminal(command: list[str], environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run `llamac` on a pseudo-terminal; return its exit code and all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    names = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    inherited = {key: value for key, value in os.environ.items() if key not in names}
    process = subprocess.Popen(
        [sys.executable, "-m", "llamac.cli", *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=inherited | {"TERM": "xterm-256color"} | (environment or {}),
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    return process.wait(), said.decode().replace("\r\n", "\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_gets_colours_within_80_columns(name: str) -> None:
    code, said = on_a_terminal(COMMANDS[name])
    assert code == FAILS.get(name, 0), said
    assert ESCAPES.search(said)
    if name not in NOT_TABLES:
        lines = ESCAPES.sub("", said).replace("\r", "\n").splitlines()
        assert [line for line in lines if len(line) > 80] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["check", "check: errors", "plan --search", "inspect --diff"])
@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"]
)
def test_no_escape_codes_where_they_are_not_taken(name: str, environment: dict[str, str]) -> None:
    code, said = on_a_terminal(COMMANDS[name], environment)
    assert code == FAILS.get(name, 0), said
    assert "\x1b" not in said
    if name not in NOT_TABLES:
        assert max(map(len, said.splitlines())) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_gets_plain_text(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # asks other programs for colours in a pipe
    assert main(COMMANDS[name]) == FAILS.get(name, 0)
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said
    assert not [line for line in said.splitlines() if line != line.rstrip()]


SHARED = ["--set=parallel.data_shard=2", "--set=batch.micro_batch=4"]
JSON = [
    ["check", "65b", "--json"],
    ["check", "tiny", "--set", "model.dimm=3", "--json"],
    ["plan", "65b", "--json"],
    ["plan", "7b", "--gpus", "8", "--search", "--top", "2", "--json"],
    ["plan", "7b", "--gpus", "8", "--why", "tp8,mb1", "dp8,mb1", "--json"],
    ["plan", "7b", "--gpus", "8", "--why-not", "2x", "--json"],
    ["plan", "--compute", "1e22", "--json"],
    ["inspect", "tiny", "--memory", "--format", "json"],
    ["inspect", "65b", "--schedule", "--format", "json"],
    ["inspect", "tiny", "--diff", "lower", "pack", "--format", "json"],
    ["data", "epochs", "65b", "--json"],
    ["verify", "tiny", "--json"],
    ["train", "tiny", "--dry-run", *SHARED, "--json"],
    ["schema"],
]


@pytest.mark.slow
@pytest.mark.parametrize("command", JSON, ids=" ".join)
def test_a_program_reads_nothing_but_json(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(command)
    assert json.loads(capsys.readouterr().out)


def test_a_budget_that_cannot_be_met_is_an_error_in_json_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    impossible = ["--set", "recompute.policy=budget", "--set", "recompute.budget=1MB"]
    assert main(["check", "tiny", *impossible, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert not found["valid"]
    assert found["errors"]


def test_json_of_a_report_takes_the_place_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text('{"step": 1, "tokens": 8, "loss": 2.5}\n')
    assert main(["report", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["summary"]["last"]["loss"] == 2.5
    assert not Path("report.html").exists()
    assert main(["report", "run", "--json", "-o", "x.html"]) == 2


def test_json_of_a_run_is_in_its_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny", "--json"]) == 2
    assert "metrics.jsonl" in capsys.readouterr().err
