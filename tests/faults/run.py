"""A small run, built and trained in child processes that faults are put into.

A start is what `llamac train` does: the directory is brought up to date, then its train.py runs.
torch and the compiler are imported once, by the parent; a child is a fork, so that hundreds of
starts take minutes. The parent itself never trains: a fork would then not be able to.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from llamac.emit import run_directory as emission
from llamac.emit.build import BuildError, files_of
from llamac.passes.pass_list import stages
from llamac.runtime.checkpoint.checkpoint import checkpoint_path, steps
from llamac.spec import Spec, load_spec
from tests.train.conftest import SPEC

PATIENCE = 120.0  # seconds that a start may take before it counts as hanging


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, or minus the signal that killed it, and what it said."""

    code: int
    said: str

    @property
    def crashed(self) -> bool:
        return "Traceback (most recent call last)" in self.said


class Subject:
    """A spec whose runs are tried. root: for its texts and for the runs."""

    def __init__(self, root: Path, *changes: str) -> None:
        self.root, texts = root, root / "texts"
        texts.mkdir(parents=True)
        for n in range(40):
            rhyme = f"Number {n} went up the hill to fetch {n + 1} pails of water.\n" * 12
            (texts / f"rhyme{n}.txt").write_text(rhyme)
            sums = [f"{n} + {k} = {n + k}; {n} * {k} = {n * k}\n" for k in range(30)]
            (texts / f"sums{n}.md").write_text("".join(sums))
        (root / "spec.toml").write_text(SPEC.format(texts=texts))
        best_fit = ('data.packing="best_fit"', "data.shard_tokens=4096", "eval.sample_tokens=0")
        self.spec: Spec = load_spec(str(root / "spec.toml"), [*best_fit, *changes])
        self.files = files_of(self.spec, stages(self.spec), lambda _: '{"kind": "gpu"}\n')

    def build(self, run: Path) -> None:
        """As `llamac train` does; it is compiled once for all."""
        with patch.object(emission, "files_of", lambda *_: self.files):
            for word in emission.update_run_directory(run, self.spec):
                print(word, file=sys.stderr)

    def start(
        self, run: Path, *arguments: str, before: Callable[[], object] | None = None
    ) -> Ended:
        """Starts training in `run`, after `before` has put a fault into the process."""

        def work() -> int:
            if before:
                before()
            try:
                self.build(run)
            except BuildError as error:
                print(f"llamac train: {error}", file=sys.stderr)
                return 2
            sys.path.insert(0, str(run))
            sys.argv = ["train.py", "--run", str(run), *arguments]
            return importlib.import_module("train").main()

        return in_child(work, self.root / "log")


def in_child(work: Callable[[], int], log: Path) -> Ended:
    """What becomes of `work` in a fork of this process."""
    gc.freeze()  # the child collects garbage: only its own, not this process's
    child = os.fork()
    if not child:
        code = 70
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.setsid()
            with open(log, "w", errors="backslashreplace") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # not pytest's
            sys.dont_write_bytecode = True
            code = work()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + PATIENCE
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(-signal.SIGALRM, "it hangs")
        time.sleep(0.002)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))


EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock"}


def at_event(run: Path, number: int, act: Callable[[], object]) -> Callable[[], None]:
    """A fault: `act` at the number-th time that the process touches a file of `run`, from 0 on."""

    def install() -> None:
        left, inside = iter(range(number, -1, -1)), str(run)

        def hook(event: str, arguments: tuple) -> None:
            touches = event in EVENTS and inside in str(arguments[0])
            if (touches or event == "fcntl.flock") and next(left, None) == 0:
                act()

        sys.addaudithook(hook)

    return install


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(seconds: float, number: int) -> Callable[[], None]:
    """A fault: a signal to the process after some seconds."""

    def install() -> None:
        me = os.getpid()
        if not os.fork():
            time.sleep(seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(me, number)
            os._exit(0)

    return install


def weights(run: Path) -> dict[str, str]:
    """Hashes of what the newest checkpoint holds of weights, moments and state, by file."""
    newest = checkpoint_path(run, steps(run)[-1])
    files = [*(newest / "tensors").glob("*.distcp"), newest / "state.json"]
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {newest.name: "", **digests}
