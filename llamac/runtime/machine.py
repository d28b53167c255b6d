"""What this machine is and can do: device, compiler, matmul peak, memory, signals."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np
import torch


class RunError(Exception):
    """A run cannot go on, and the message says what a person can do about it. Exit code 1."""


class Compiler(NamedTuple):
    """Whether torch.compile can work here, and the reason in words."""

    available: bool
    why: str


def choose_device(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda"; raises RunError if "cuda" is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError(
            'hardware.device = "cuda", but torch sees no CUDA GPU here: set it to "auto"'
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy to the device without waiting for it (from pinned memory where there is a GPU)."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compiler_available(device: torch.device) -> Compiler:
    """Can torch.compile build kernels for `device`? Tried, not guessed.

    On CPU Inductor writes C++ against Python.h and OpenMP, so a program with both is compiled with
    $CXX, g++ or clang++; the one that works is left in $CXX, where Inductor looks for it. On CUDA
    Triton must import and needs a C compiler for its launcher.
    """
    return _triton(device) if device.type == "cuda" else _cpp_compiler()


def compile_or_eager(setting: str, device: torch.device, compile: Callable[[], None]) -> str:
    """Call `compile` if `setting` ("auto", "always", "never") and this machine allow it.

    Returns what was decided and why, for people. Raises RunError if "always" is impossible.
    """
    if setting == "never":
        return 'eager (kernels.compile = "never")'
    compiler = compiler_available(device)
    if compiler.available:
        compile()
        return f"torch.compile ({compiler.why})"
    if setting == "always":
        raise RunError(
            f'kernels.compile = "always", but {compiler.why}: install one, or set it to "auto"'
        )
    return f"eager, as {compiler.why}"


def _triton(device: torch.device) -> Compiler:
    if importlib.util.find_spec("triton") is None:
        return Compiler(False, "Triton is not installed")
    if torch.cuda.get_device_capability(device) < (7, 0):
        return Compiler(False, "Triton needs a GPU of compute capability 7.0 or later")
    for name in filter(None, (os.environ.get("CC"), "gcc", "clang", "cc")):
        if shutil.which(name):
            return Compiler(True, f"Triton, {name}")
    return Compiler(False, "Triton is installed but finds no C compiler ($CC, gcc, clang)")


def _cpp_compiler() -> Compiler:
    chosen = os.environ.get("CXX")
    found = [name for name in ([chosen] if chosen else ["g++", "clang++"]) if shutil.which(name)]
    if not found:
        looked = f"$CXX = {chosen!r}" if chosen else "$CXX, g++, clang++"
        return Compiler(False, f"no C++ compiler found ({looked})")
    complaint = ""
    for name in found:
        complaint = _try_cpp(name)
        if not complaint:
            os.environ["CXX"] = name
            return Compiler(True, name)
    return Compiler(False, f"{found[-1]} cannot build a Python extension: {complaint}")


def _try_cpp(compiler: str) -> str:
    """Build a shared library as Inductor would; returns the compiler's first complaint, or ""."""
    source = "#include <Python.h>\n#include <cmath>\n"
    flags = ["-std=c++17", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}"]
    if sys.platform == "linux":
        source, flags = source + "#include <omp.h>\n", [*flags, "-fopenmp"]
    else:
        flags = [*flags, "-undefined", "dynamic_lookup"]
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "probe.cpp")
        program.write_text(source + "int main_probe() { return Py_IsInitialized(); }\n")
        command = [compiler, *flags, str(program), "-o", str(Path(directory, "probe.so"))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    return "" if done.returncode == 0 else (lines or [f"exit code {done.returncode}"])[0].strip()


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Measured peak of a dense n×n matmul in `dtype`, in FLOP/s: the best of growing n.

    Takes about `seconds`: each size runs for a share of it, and sizes stop growing once a single
    product would not fit. Leaves torch's random state alone.
    """
    best, deadline = 0.0, time.perf_counter() + seconds
    generator = torch.Generator(device).manual_seed(0)
    for n in (256, 512, 1024, 2048, 4096, 8192):
        a, b = torch.randn(2, n, n, device=device, generator=generator).to(dtype)
        torch.mm(a, b)
        synchronize(device)
        started, repeats, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < seconds / 6:
            torch.mm(a, b)
            repeats += 1
            if device.type != "cuda" or repeats % 16 == 0:
                synchronize(device)
                elapsed = time.perf_counter() - started
        rate = 2 * n**3 * repeats / elapsed
        best = max(best, rate)
        # The next size runs once to warm up and once at least to measure, at 8 times the work.
        if time.perf_counter() + 2 * 8 * 2 * n**3 / rate > deadline + seconds / 2:
            break
    return best


def peak_memory_bytes(device: torch.device) -> int:
    """Most bytes held at once: torch's allocations on a GPU, else this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class StopSignals:
    """Turns the first SIGTERM or Ctrl-C into a request that the loop honours after its step.

    A second Ctrl-C interrupts at once, for whoever cannot wait.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
