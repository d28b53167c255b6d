"""Run a program on several ranks, forked from one process that has already imported torch.

`torchrun` starts each rank as a new interpreter, which spends seconds on importing torch. Programs
that compare many layouts of a tiny model start hundreds of ranks, for which forking is faster.

This file is also the server's program: it reads launches from standard input as lines of JSON and
answers each with one line.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENDED = 2.0  # seconds granted to the other ranks after one failed
TIMED_OUT = 124  # exit code of a launch that was killed, as from `timeout`


@dataclass
class RanksEnded:
    """Exit code and output of one launch, as described in `RankServer.run`.

    failed: the first rank that failed; None if none failed before the timeout.
    """

    returncode: int
    stdout: str
    stderr: str
    failed: int | None


class RankServer:
    """Context manager that runs programs on ranks. The first `run` starts the server process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RankServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.communicate()  # the server stops when its input ends

    def run(
        self,
        program: Path,
        *arguments: str,
        ranks: int,
        timeout: float,
        environment: dict[str, str] | None = None,
    ) -> RanksEnded:
        """Run `python PROGRAM ARGUMENTS` on each rank, in the program's directory, and wait.

        The return code is that of the first rank that failed (negative: killed by that signal), or
        124 after the timeout, or 0. Output is that of all ranks; the errors of the first rank that
        failed come first, since those of the others may follow from it.

        Raises RuntimeError if the server process has ended.

        timeout: in seconds. environment: further environment variables of the ranks.
        """
        with tempfile.TemporaryDirectory(prefix="llamac-ranks-") as directory:
            out, *errors = [Path(directory, name) for name in ("stdout", *map(str, range(ranks)))]
            launch = {
                "argv": [str(program), *arguments],
                "timeout": timeout,
                "environment": environment or {},
                "out": str(out),
                "errors": [str(file) for file in errors],
            }
            code, failed = self._ask(launch)
            if failed is not None:
                errors.insert(0, errors.pop(failed))
            said = "".join(file.read_text(errors="replace") for file in errors)
            text = out.read_text(errors="replace")
        return RanksEnded(code, text, said, failed)

    def _ask(self, launch: dict[str, Any]) -> tuple[int, int | None]:
        if not self._process:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        given, answers = self._process.stdin, self._process.stdout
        assert given is not None
        assert answers is not None
        given.write(json.dumps(launch) + "\n")
        given.flush()
        answer = answers.readline()
        if not answer:
            raise RuntimeError("the process that starts ranks has ended")
        return tuple(json.loads(answer))


def serve() -> None:
    """Run the server: launch what each line of standard input describes, until the input ends.

    Each launch is answered with a line of JSON: [exit code, first rank that failed or null].
    """
    import torch._dynamo  # imported by the first optimizer step
    import torch.distributed  # noqa: F401

    gc.freeze()  # ranks collect garbage: only their own, without copying the pages of torch
    for line in sys.stdin:
        print(json.dumps(_launch(**json.loads(line))), flush=True)


def _launch(
    argv: list[str], timeout: float, environment: dict[str, str], out: str, errors: list[str]
) -> tuple[int, int | None]:
    """Fork a rank for each file of `errors`; return the exit code and the first failed rank."""
    ranks = len(errors)
    for file in (out, *errors):
        Path(file).touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    several |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = {}
    for rank, file in enumerate(errors):
        child = os.fork()
        if child == 0:
            os.environ.update(environment)
            if ranks > 1:
                place = several | {"RANK": rank, "LOCAL_RANK": rank}
                os.environ.update({name: str(value) for name, value in place.items()})
            _become(argv, [out, file])
        started[child] = rank
    return _wait(started, time.monotonic() + timeout)


def _become(argv: list[str], outputs: list[str]) -> None:
    """Run the program in this forked process and exit with its code."""
    for number, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    directory = str(Path(argv[0]).parent)
    os.chdir(directory)
    sys.path[0] = directory
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
    raise SystemExit(0)


def _wait(started: dict[int, int], deadline: float) -> tuple[int, int | None]:
    """Wait for all ranks, by process id; return the first exit code that is not 0 and its rank.

    After a failure, the others are ended. The rank is None without one, or after the deadline.
    """
    first, failed = 0, None
    while started:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            rank = started.pop(child)
            code = os.waitstatus_to_exitcode(status)
            if code and not first:
                first, failed = code, rank
                deadline = min(deadline, time.monotonic() + ENDED)
        elif time.monotonic() > deadline:
            first = first or TIMED_OUT
            for other in started:
                os.kill(other, signal.SIGKILL)
            deadline = float("inf")
        else:
            time.sleep(0.01)
    return first, failed


if __name__ == "__main__":
    serve()
