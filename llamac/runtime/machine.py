"""This machine and process: errors, printing, arguments, device, compiler, matmul peak, memory."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import io
import math
import os
import resource
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .durable_files import path_within
from .errors import RunError
from .terminal import escaped


def report_errors(work: Callable[[], int]) -> Callable[[], int]:
    """Decorate a program's main function, so that errors the user can fix become an exit code.

    RunError, OSError and failed allocations print an `error: …` line on stderr and return 1; a
    RunError with a `printing_rank` is printed by that rank alone. Ctrl-C returns 130. Other errors
    are raised. Characters that the terminal's encoding lacks are printed as backslash escapes.
    """

    @functools.wraps(work)
    def main() -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return work()
        except (RunError, OSError) as error:  # OSError: disk full, read-only, not a directory, …
            if getattr(error, "printing_rank", None) in (None, int(os.environ.get("RANK", "0"))):
                with contextlib.suppress(OSError):
                    print(escaped(f"error: {error}"), file=sys.stderr)
            return 1
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            with contextlib.suppress(OSError):
                print(f"error: {OUT_OF_MEMORY} ({_first_line(error)})", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130

    return main


OUT_OF_MEMORY = (
    'out of memory: set a smaller batch.micro_batch, or recompute.policy = "full"; neither '
    "changes the loss curve, so the run can resume from its newest checkpoint"
)


def _out_of_memory(error: Exception) -> bool:
    """Return whether an error is a failed allocation, on CUDA or on the CPU (a RuntimeError)."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator: " in str(error)


def _first_line(error: Exception) -> str:
    message = str(error).partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2]
    return message or type(error).__name__


def log(text: str) -> None:
    """Print a line on stdout; if that fails (closed pipe, full disk), discard all later output.

    A failure to print must not end a run. Control characters, which samples and file names may
    contain, are escaped.
    """
    try:
        print(escaped(text), flush=True)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def positive(text: str) -> int:
    """Parse a positive decimal integer, as an argparse type.

    Raises argparse.ArgumentTypeError for any other text.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def arguments(description: str, directory: Path, steps: int) -> argparse.Namespace:
    """Parse the command line of train.py into `run`, `resume` and `steps`.

    description: text of --help. directory, steps: defaults of `run` (run directory) and `steps`
    (last step). `resume` is "auto", "never" or a path. Exits with code 2 if they are invalid.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--run", type=Path, default=directory, metavar="DIR", help="run directory")
    parser.add_argument("--resume", default="auto", metavar="auto|never|PATH")
    parser.add_argument(
        "--steps", type=positive, default=steps, metavar="N", help="stop after step N"
    )
    return parser.parse_args()


def this_command(without: str) -> str:
    """Return the shell command that started this program, without an option and its value.

    without: the option, such as "--resume". Under torchrun, it is the torchrun command that starts
    this node's processes.
    """
    words, command = iter(sys.argv), [sys.executable]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        processes = os.environ["LOCAL_WORLD_SIZE"]
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--"]
    for word in words:
        if word == without:
            next(words, None)
        elif not word.startswith(f"{without}="):
            command.append(word)
    return shlex.join(command)


class Compiler(NamedTuple):
    """Result of looking for the C++ compiler that torch.compile needs.

    available: whether torch.compile works on this machine. why: the compiler that it uses ("g++"),
    or what is missing, as text.
    """

    available: bool
    why: str


def choose_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu" or "cuda"; "auto" prefers CUDA.

    Raises RunError if `name` is "cuda" and torch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError('hardware.device = "cuda", but torch finds no CUDA GPU: set it to "auto"')
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def data_directory(given: str | None, run: Path) -> Path:
    """Return the directory of prepared data: data.directory if `given`, else RUN/data.

    Raises RunError if RUN/data is a symbolic link that leads out of the run.
    """
    return Path(given) if given else path_within(run, "data")


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device, asynchronously from pinned memory for a GPU.

    On a CPU, the tensor shares the array's memory.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work enqueued so far; returns at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compiler_available(device: torch.device) -> Compiler:
    """Return whether torch.compile can build kernels for `device`, and why.

    For CPUs, Inductor generates C++ that needs Python.h and OpenMP, so this compiles a program that
    needs both with $CXX, or, if it is unset, g++ and then clang++, and sets $CXX to the first that
    works. For CUDA, Triton must be installed, and a C compiler for its launcher.
    """
    return _triton(device) if device.type == "cuda" else _cpp_compiler()


SHORT_RUN = 3e13
"""Training FLOPs below which compiling takes as long as it saves on two CPU cores.

Measured with specs/tiny.toml (2e13): 44 s of processor time to compile with empty caches, most of
it in g++; 1.10 s per step compiled and 1.43 s eager.
"""


def compile_or_eager(
    setting: str, device: torch.device, compile: Callable[[], None], flops: float
) -> str:
    """Call `compile` if the setting and this machine allow it; return the decision as text.

    setting: `kernels.compile`, "auto", "always" or "never". compile: compiles the model's regions.
    flops: training FLOPs of the whole run. On CPUs, "auto" runs eagerly below `SHORT_RUN`, whether
    compiled regions are cached or not, so that a resumed run makes the same decision. Raises
    RunError if "always" is impossible.
    """
    if setting == "never":
        return 'eager (kernels.compile = "never")'
    if setting == "auto" and device.type == "cpu" and flops < SHORT_RUN:
        return 'eager, as compiling takes as long as it saves in so short a run ("always" compiles)'
    compiler = compiler_available(device)
    if compiler.available:
        if device.type == "cpu":
            separate_caches()
        compile()
        return f"torch.compile ({compiler.why})"
    if setting == "always":
        raise RunError(
            f'kernels.compile = "always", but {compiler.why}: install one, or set it to "auto"'
        )
    return f"eager, as {compiler.why}"


def separate_caches() -> None:
    """Set TORCHINDUCTOR_CACHE_DIR to a directory for this instruction set, unless the user set it.

    The keys of Inductor's cache lack the instruction set: a graph generated for AVX-512 computes
    wrong losses if it is loaded with ATEN_CPU_CAPABILITY=avx2, or on an older CPU that shares the
    directory.
    """
    capability = torch.backends.cpu.get_cpu_capability().lower()
    default = str(Path(tempfile.gettempdir(), "torchinductor_"))  # beginning of torch's default
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default).startswith(default):  # an import sets it
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{default}{os.getuid()}_{capability}"


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
    compilers = [
        name for name in ([chosen] if chosen else ["g++", "clang++"]) if shutil.which(name)
    ]
    if not compilers:
        looked = f"$CXX = {chosen!r}" if chosen else "$CXX, g++, clang++"
        return Compiler(False, f"no C++ compiler found ({looked})")
    complaint = ""
    for name in compilers:
        complaint = _try_cpp(name)
        if not complaint:
            os.environ["CXX"] = name
            return Compiler(True, name)
    return Compiler(False, f"{compilers[-1]} cannot build a Python extension: {complaint}")


def _try_cpp(compiler: str) -> str:
    """Build a shared library as Inductor would; return the compiler's first error, or ""."""
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
    """Measure the highest rate of dense n×n matmuls in `dtype` on `device`; return it in FLOP/s.

    Takes about `seconds`: n grows from 256 to at most 8192 while the next size takes little of that
    time. The fastest trial counts, because others may be slowed by other load on the machine. Does
    not change torch's global random state.
    """
    best, deadline, share = 0.0, time.perf_counter() + seconds, seconds / 6
    generator = torch.Generator(device).manual_seed(0)
    for n in (256, 512, 1024, 2048, 4096, 8192):
        a, b = torch.randn(2, n, n, device=device, generator=generator).to(dtype)
        _fastest_trial(a, b, 0.0)  # the first trial of a size is a warm-up
        fastest = _fastest_trial(a, b, time.perf_counter() + share)
        largest = n == 8192 or 2 * 8 * fastest > share  # the next size takes 8 times as long
        if largest:
            fastest = min(fastest, _fastest_trial(a, b, deadline))
        best = max(best, 2 * n**3 * _products(device) / fastest)
        if largest:
            break
    return best


def _products(device: torch.device) -> int:
    """Return the number of matmuls per trial: several on a GPU, which is synchronised per trial."""
    return 16 if device.type == "cuda" else 1


def _fastest_trial(a: torch.Tensor, b: torch.Tensor, until: float) -> float:
    """Return the seconds of the fastest trial that begins before `until`; at least one runs."""
    fastest, now = math.inf, time.perf_counter()
    while fastest == math.inf or now < until:
        started = now
        for _ in range(_products(a.device)):
            torch.mm(a, b)
        synchronize(a.device)
        now = time.perf_counter()
        fastest = min(fastest, now - started)
    return fastest


def forget_peak_memory(device: torch.device) -> None:
    """Reset the peak that `peak_memory_bytes` returns, if the system supports it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): reset the peak resident set size


def peak_memory_bytes(device: torch.device) -> int:
    """Return this process's peak memory in bytes.

    On a GPU, torch's allocations on `device`, else the resident set size. It is the peak since the
    last `forget_peak_memory` or, where the system does not support that, the process's start.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
