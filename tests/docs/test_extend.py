"""The walk-throughs of docs/extend.md, executed on a copy of the tree.

Blocks are read by their info string: ```python PATH or ```toml PATH writes a file, ```diff PATH
edits one (lines without a sign and with `-` must be there, once), ```console runs commands.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (An? .*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.M | re.S)


def blocks(section: str) -> Iterator[tuple[str, str, str]]:
    """(language, path or "", text) of each fenced block."""
    yield from BLOCK.findall(SECTIONS[section])


def edit(path: Path, diff: str) -> None:
    lines = diff.splitlines()
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has {text.count(old)} places like\n{old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("llamac", "specs", "templates"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "tree" / name, ignore=skip)
    return tmp_path / "tree"


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_a_walk_through_does_what_it_says(section: str, copy: Path) -> None:
    ran = 0
    for language, path, text in blocks(section):
        if language == "diff":
            edit(copy / path, text)
        elif language == "console":
            for line in text.splitlines():
                run(copy, line.removeprefix("$ "))
                ran += 1
        else:
            assert not (copy / path).exists()
            (copy / path).write_text(text, encoding="utf-8")
    assert ran


def run(copy: Path, command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "llamac"
    done = subprocess.run(
        [sys.executable, "-m", "llamac.cli", *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


@pytest.mark.parametrize("section", SECTIONS)
def test_a_walk_through_edits_few_files(section: str) -> None:
    """The promise of the table at the top: one file, and one line elsewhere.

    Not counted: the reference, which is meant to repeat what is computed.
    """
    paths = {path for _, path, _ in blocks(section) if path.startswith("llamac/")}
    assert len(paths - {"llamac/verify/reference.py"}) <= 2


def test_new_files_are_as_the_formatter_leaves_them(tmp_path: Path) -> None:
    for section in SECTIONS:
        for language, path, text in blocks(section):
            if language == "python":
                (tmp_path / Path(path).name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "format", "--check", "--line-length=100"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
