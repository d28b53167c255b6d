"""Run generated programs in a process without network and with resource limits.

This stops mistakes and common abuse: endless loops, unbounded memory, fork bombs, files outside a
temporary directory, and connections. It does not stop kernel exploits: run untrusted code in a
virtual machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of a program.

    seconds: wall time. memory: maximum bytes of address space. file: maximum bytes of each file it
    writes. output: bytes of the output's end that are returned as the error.
    """

    seconds: float = 10.0
    memory: int = 1 << 30
    file: int = 1 << 20
    output: int = 4096


# Code that runs before the program. It sets resource limits, then an audit hook that refuses
# everything else. The hook cannot be removed, and uses no module that the program could change.
GUARD = """
import sys

def _guard():
    import contextlib, os, resource
    seconds, memory, file, directory = {limits!r}
    for name, limit in (
        ("RLIMIT_CPU", seconds), ("RLIMIT_AS", memory), ("RLIMIT_DATA", memory),
        ("RLIMIT_FSIZE", file), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 64), ("RLIMIT_NPROC", 1),
    ):
        if hasattr(resource, name):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(getattr(resource, name), (limit, limit))
    real, inside, join = os.path.realpath, directory + os.sep, os.path.join
    write = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    fsdecode, getcwd = os.fsdecode, os.getcwd
    refused = (
        "socket.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill",
        "os.chown", "os.chmod", "os.link", "os.symlink", "os.setxattr", "os.removexattr",
        "subprocess.", "pty.", "ctypes.", "resource.", "fcntl.", "mmap.", "signal.",
    )
    changes = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.utime")
    modules = {{"ctypes", "_ctypes", "_posixsubprocess", "multiprocessing", "_multiprocessing",
               "socket", "_socket", "cffi"}}
    str_, int_, any_, isinstance_, bytes_ = str, int, any, isinstance, bytes

    def outside(path):
        if isinstance_(path, int_):
            return False
        full = real(join(getcwd(), fsdecode(path)))
        return full != directory and not full.startswith(inside)

    def hook(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            writes = (mode is not None and any_(c in mode for c in "wax+")) or (
                isinstance_(flags, int_) and flags & write
            )
            if writes and outside(path) and path != "/dev/null":
                raise PermissionError("the sandbox allows no writing outside its directory")
        elif event.startswith(changes):
            if any_(outside(a) for a in arguments[:2] if isinstance_(a, (str_, bytes_))):
                raise PermissionError("the sandbox allows no changes outside its directory")
        elif event == "import" and arguments[0].partition(".")[0] in modules:
            raise PermissionError("the sandbox allows no such import")
        elif event.startswith(refused):
            raise PermissionError("the sandbox allows no " + event)

    sys.addaudithook(hook)

_guard()
del _guard
"""


def run_program(program: str, limits: SandboxLimits | None = None) -> str:
    """Run a Python program and return its error, or "" if it ran to its end.

    It has an empty working directory, an almost empty environment and no input. When it ends or
    exceeds its time, all processes of its session are killed.
    program: source text. limits: None means the defaults of `SandboxLimits`.
    """
    limits = limits or SandboxLimits()
    with tempfile.TemporaryDirectory(prefix="llamac-sandbox-") as directory:
        root = Path(os.path.realpath(directory))
        work = root / "work"
        work.mkdir()
        guard = GUARD.format(
            limits=(int(limits.seconds) + 1, limits.memory, limits.file, str(work))
        )
        end_marker = "llamac: ran to its end " + os.urandom(8).hex()
        source = root / "program.py"
        body = f"exec(compile({program!r}, 'answer.py', 'exec'), {{'__name__': '__main__'}})"
        source.write_text(f"{guard}\n{body}\nprint({end_marker!r})\n", encoding="utf-8")
        output = root / "output"
        with output.open("wb") as out:
            child = subprocess.Popen(
                [*_without_network(), sys.executable, "-I", "-S", "-B", str(source)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=work,
                env={"PATH": os.defpath, "HOME": str(work), "TMPDIR": str(work)},
                start_new_session=True,
            )
            try:
                code = child.wait(limits.seconds)
            except subprocess.TimeoutExpired:
                return f"exceeded the time limit of {limits.seconds:g} s"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        output_end = _read_end(output, limits.output)
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code or not output_end.rstrip().endswith(end_marker):
        return output_end.strip() or f"ended early, with exit code {code}"
    return ""


def _read_end(path: Path, size: int) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - size, 0))
        return file.read().decode(errors="replace")


def _without_network() -> list[str]:
    """Return a command prefix that isolates a process from the network, or [] if unsupported."""
    global _UNSHARE
    if _UNSHARE is None:
        command = ["unshare", "--user", "--map-current-user", "--net", "--"]
        try:
            done = subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False)
            _UNSHARE = command if done.returncode == 0 else []
        except (OSError, subprocess.TimeoutExpired):
            _UNSHARE = []
    return _UNSHARE


_UNSHARE: list[str] | None = None
