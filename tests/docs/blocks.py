"""The blocks of the documentation, and how a command is run, shortened, in this process."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NoReturn

import pytest

from llamac.cli import main

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
}
BLOCK = re.compile(r"^```([^\s`]*)(?: ([^\n]+))?\n(.*?)^```$", re.M | re.S)

# A real model and a real training, of seconds. A page's own --set has the last word.
SMALL = {
    "model.vocab_size": "512",
    "model.dim": "64",
    "model.n_heads": "4",
    "model.n_layers": "2",
    "batch.sequence_length": "64",
    "schedule.steps": "6",
    "schedule.warmup_steps": "2",
    "checkpoint.every": "3",
    "eval.every": "3",
    "eval.batches": "1",
    "eval.sample_tokens": "4",
    "kernels.compile": "never",
    "tokenizer.train_bytes": "100KB",
    "data.source": '[{name="python-docs",kind="files",share=0.6,paths=["texts/*.txt"]},'
    '{name="python-source",kind="files",share=0.4,paths=["texts/*.txt"]}]',
}
FEW_STEPS = 6
TRAINS = re.compile(
    r"^llamac (train|data|tokenizer train) .*?(\S*\b(?:tiny|older)\b(?:\.toml)?)(?= |$)"
)


def blocks(page: str, language: str | None = None) -> Iterator[tuple[str, str, str]]:
    """(language, words after it, text) of each fenced block of a page."""
    for found in BLOCK.findall(PAGES[page]):
        if language in (None, found[0]):
            yield found


def commands(page: str) -> list[str]:
    """Return the commands of a page's sh blocks, continuation lines joined, comments left out."""
    found = []
    for _, _, text in blocks(page, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                found.append(" ".join(w if w == ">" else shlex.quote(w) for w in words))
    return found


def shortened(command: str) -> str:
    """Return what is run in the place of a command that trains or prepares a tiny spec."""
    command = re.sub(r"^\./dev (?!test)", "llamac ", command)
    found = TRAINS.match(command)
    if not found:
        return command
    sets = " ".join(f"--set {shlex.quote(f'{key}={value}')}" for key, value in SMALL.items())
    end = found.end()
    steps = f" --steps {FEW_STEPS}" if found[1] == "train" else ""
    return f"{command[:end]} {sets}{command[end:]}{steps}"


TRAINED = re.compile(r"^llamac train (?:specs/)?(\w+)(?:\.toml)? (?!.*-o )")


class Runner:
    """Runs commands in a directory as a shell there would, llamac in this process.

    runs: a training, as it was run and with the directory's specs → the run that it made.
    """

    runs: ClassVar[dict[tuple[str, ...], Path]] = {}

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        monkeypatch.chdir(directory)
        monkeypatch.setattr(os, "execv", _run_and_exit)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(self, command: str, capfd: pytest.CaptureFixture[str], expected: int = 0) -> None:
        """Run a command; fail with what it said unless it ends with `expected`."""
        line, _, file = shortened(command).partition(" > ")
        program, *arguments = shlex.split(line)
        trained = TRAINED.match(line)
        run = self.directory / "runs" / trained[1] if trained else None
        key = (line, *(path.read_text() for path in sorted(self.directory.glob("*.toml"))))
        if run and key in self.runs:  # as above, or on an earlier page
            if not run.exists():
                shutil.copytree(self.runs[key], run)
            return
        capfd.readouterr()
        if program == "llamac":
            code = _code(arguments)
        else:
            program = sys.executable if program in ("python", ".venv/bin/python") else program
            code = subprocess.run([program, *arguments], cwd=self.directory).returncode
        said = capfd.readouterr()
        assert code == expected, f"{line}\n{said.out[-3000:]}{said.err[-3000:]}"
        if run:
            self.runs[key] = run
        if file:
            (self.directory / file).write_text(said.out, encoding="utf-8")


def _code(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def _run_and_exit(program: str, arguments: list[str]) -> NoReturn:
    sys.exit(subprocess.run([program, *arguments[1:]]).returncode)
