"""Run `llamac train` without starting interpreters: the command here, its trainer in a fork.

The fork is of a process that has imported torch, which takes a new interpreter seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import io
from pathlib import Path
from unittest.mock import patch

from llamac.cli import main
from llamac.verify.rank_server import RankServer

SERVER = RankServer()
atexit.register(SERVER.__exit__)


def train(directory: Path, *arguments: str, timeout: float = 300) -> str:
    """Run `llamac train ARGUMENTS` in `directory`; return what command and trainer print."""
    command: list[str] = []
    printed = io.StringIO()
    with (
        patch("os.execv", lambda _, words: command.extend(words)),
        contextlib.chdir(directory),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        code = main(["train", *arguments])
        assert code == 0, printed.getvalue()
        program = Path(command[1]).absolute()
    ended = SERVER.run(program, *command[2:], ranks=1, timeout=timeout)
    said = printed.getvalue() + ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    return said
