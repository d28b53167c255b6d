"""Programs that a model might write, and what becomes of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llamac.evaluate.sandbox import SandboxLimits, run_program
from llamac.evaluate.tasks.answer_tasks import build_program
from llamac.evaluate.tasks.known_tasks import TASKS
from tests.evaluate.conftest import PUBLISHED

QUICK = SandboxLimits(seconds=3, memory=256 << 20)


def test_what_ordinary_answers_need_is_there() -> None:
    program = """
import math, re, collections, itertools, functools, heapq, string, random, hashlib, typing, json
import dataclasses, datetime, copy, operator, bisect, statistics, fractions, decimal
Point = collections.namedtuple("Point", "x y")
open("own.txt", "w").write("x")
assert open("own.txt").read() == "x" and hashlib.md5(b"").hexdigest() and math.gcd(4, 6) == 2
"""
    assert run_program(program, QUICK) == ""


def test_a_wrong_answer_says_why() -> None:
    assert "AssertionError" in run_program("assert 1 == 2", QUICK)
    assert "SyntaxError" in run_program("def f(:", QUICK)


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "def check(f): pass\nquit()",
    ],
)
def test_leaving_early_is_not_passing(program: str) -> None:
    assert run_program(program, QUICK)


ESCAPES = {
    "fork": "import os\nwhile True: os.fork()",
    "fork without os": "import posix\nwhile True: posix.fork()",
    "process": "import subprocess; subprocess.run(['touch', {path!r}])",
    "system": "import os; os.system('touch ' + {path!r})",
    "spawn": "import os; os.posix_spawn('/bin/touch', ['touch', {path!r}], {{}})",
    "exec": "import os; os.execv('/bin/touch', ['touch', {path!r}])",
    "multiprocessing": "import multiprocessing as m; m.Process(target=print).start()",
    "network": "import socket; socket.create_connection(('127.0.0.1', 9))",
    "raw network": "import _socket; _socket.socket()",
    "http": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
    "write outside": "open({path!r}, 'w').write('x')",
    "append outside": "open({path!r}, 'a').write('x')",
    "low level": "import os; os.open({path!r}, os.O_CREAT | os.O_WRONLY)",
    "relative": "import os; open(os.path.relpath({path!r}), 'w')",
    "through a link": "import os; os.symlink({parent!r}, 'out'); open('out/escaped', 'w')",
    "delete": "import os; os.remove({other!r})",
    "rename": "import os; os.rename({other!r}, {path!r})",
    "make a directory": "import os; os.mkdir({path!r})",
    "pathlib": "import pathlib; pathlib.Path({path!r}).touch()",
    "change mode": "import os; os.chmod({other!r}, 0)",
    "kill": "import os; os.kill(os.getppid(), 15)",
    "ctypes": "import ctypes; ctypes.CDLL(None).fork()",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "swallow": "try:\n    import os; os.fork()\nexcept PermissionError: raise SystemExit(3)",
}


@pytest.mark.parametrize("program", ESCAPES.values(), ids=ESCAPES)
def test_a_program_cannot_leave_its_directory_or_start_others(program: str, tmp_path: Path) -> None:
    path, other = tmp_path / "escaped", tmp_path / "other"
    other.write_text("kept")
    names = {"path": str(path), "other": str(other), "parent": str(tmp_path)}
    assert run_program(program.format(**names), QUICK)
    assert not path.exists()
    assert other.read_text() == "kept"
    assert other.stat().st_mode & 0o400


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "try:\n    while True: pass\nexcept BaseException:\n    while True: pass",
        "import threading as t\nwhile True: t.Thread(target=lambda: [*iter(int, 1)]).start()",
    ],
)
def test_time_ends(program: str) -> None:
    began = time.monotonic()
    assert run_program(program, SandboxLimits(seconds=0.5, memory=256 << 20))
    assert time.monotonic() - began < 10


def test_memory_and_files_have_a_limit() -> None:
    assert "MemoryError" in run_program("x = bytearray(1 << 30)", QUICK)
    assert run_program("x = []\nwhile True: x.append(bytearray(1 << 20))", QUICK)
    assert run_program("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", QUICK)
    assert run_program("while True: print('x' * 10000)", QUICK)


def test_humaneval_and_mbpp_answers_run() -> None:
    asked = TASKS["humaneval"].read(PUBLISHED["humaneval"])
    for answer, right in (("    return 1\n", True), ("    return 2\n", False), ("", False)):
        assert (run_program(build_program("humaneval", asked, answer), QUICK) == "") == right
    asked = TASKS["mbpp"].read(PUBLISHED["mbpp"])
    for answer, right in (("def f():\n    return 1\n", True), ("def f(): pass", False)):
        assert (run_program(build_program("mbpp", asked, answer), QUICK) == "") == right
