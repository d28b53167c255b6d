"""docs/silent-bugs.md names tests that exist, and threads where each bug was reported."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs/silent-bugs.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and "tests/" in line
]
CHECKS = ("IR verifier", "`verify`", "`verify --ranks`", "run-time, ", "spec")


def test_there_are_enough() -> None:
    assert len(ROWS) >= 15
    assert len({bug for bug, *_ in ROWS}) == len(ROWS)


def test_every_test_that_the_table_names_exists() -> None:
    for bug, _, _, test in ROWS:
        named = re.fullmatch(r"`(tests/\S+\.py)::(test_\w+)(?:\[(.+)\])?`", test)
        assert named, bug
        file, function, case = named.groups()
        text = (ROOT / file).read_text(encoding="utf-8")
        functions = [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
        assert function in functions, bug
        assert case is None or f'"{case}"' in text, bug


def test_every_bug_has_a_report_and_a_check() -> None:
    for bug, reports, check, _ in ROWS:
        assert re.search(r"\]\(https://github\.com/\S+/(issues|pull)/\d+\)", reports), bug
        assert check.startswith(CHECKS), bug
