"""`llamac report`: files it writes, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from urllib.request import urlopen

import pytest

from llamac.cli import main

from .conftest import MakeRun, metrics_rows


@pytest.mark.slow
def test_a_page_and_pictures(make_run: MakeRun, tmp_path, capsys):
    run, page, figures = make_run("run"), tmp_path / "page.html", tmp_path / "figures"
    assert main(["report", str(run), "-o", str(page), "--png", str(figures)]) == 0
    lines = capsys.readouterr().out.splitlines()
    written = [line for line in lines if line.startswith("/")]
    names = ["loss", "lr", "grad_norm", "tokens_per_second", "mfu"]
    names += ["peak_memory_bytes", "step_seconds"]
    assert written == [*(str(figures / f"{name}.png") for name in names), str(page)]
    last = metrics_rows()[-1]
    assert any(f"300  614,400  {last['loss']:.4f}" in line for line in lines)
    for name in names:
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", str(run), "-o", str(page), "--png", str(figures)]) == 0  # again


@pytest.mark.slow
def test_the_same_run_makes_the_same_pictures(make_run: MakeRun, tmp_path):
    run = make_run("run")
    for name in ("one", "two"):
        arguments = [
            "report",
            str(run),
            "-o",
            str(tmp_path / "p.html"),
            "--png",
            str(tmp_path / name),
        ]
        assert main(arguments) == 0
    pictures = [(tmp_path / name / "loss.png").read_bytes() for name in ("one", "two")]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_pictures_of_a_run_of_one_step_and_of_none(make_run: MakeRun, tmp_path):
    page = str(tmp_path / "page.html")
    for name, steps in (("one", 1), ("none", 0)):
        run, figures = make_run(name, metrics_rows(steps)), tmp_path / f"{name}-figures"
        assert main(["report", str(run), "-o", page, "--png", str(figures)]) == 0
        assert (figures / "loss.png").exists() == bool(steps)


def test_what_is_missing_is_said(make_run: MakeRun, tmp_path, capsys):
    run = make_run("run", "damaged\n")
    assert main(["report", str(run), "-o", str(tmp_path / "page.html")]) == 0
    assert f"note: {run}: 1 damaged line in metrics.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.jsonl", "spec.toml"])
def test_a_run_is_never_overwritten(make_run: MakeRun, name, capsys):
    run = make_run("run")
    before = (run / name).read_bytes()
    assert main(["report", str(run), "-o", str(run / name), "--overwrite"]) == 2
    assert (run / name).read_bytes() == before
    assert "input" in capsys.readouterr().err


def test_what_is_no_run_is_a_usage_error(tmp_path, capsys):
    for run in (tmp_path, tmp_path / "nowhere"):
        assert main(["report", str(run), "-o", str(tmp_path / "page.html")]) == 2
    assert not (tmp_path / "page.html").exists()
    assert "is not a run" in capsys.readouterr().err
    assert main(["report"]) == 2


@pytest.mark.slow
def test_watching_serves_until_it_is_interrupted(make_run: MakeRun):
    command = [sys.executable, "-m", "llamac.cli", "report", str(make_run("run")), "--watch"]
    with subprocess.Popen(
        [*command, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background inherit that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout
        address = re.match(r"(http://127\.0\.0\.1:\d+/) ", process.stdout.readline())
        assert address
        with urlopen(address[1], timeout=30) as page:
            assert "run (tiny)" in page.read().decode()
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr
        assert process.stderr.read() == "llamac: interrupted\n"
