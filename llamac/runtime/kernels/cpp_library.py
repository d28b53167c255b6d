"""Build of llamac's own C++ kernels for x86 CPUs into shared libraries, called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from pathlib import Path

import torch

from ..machine import separate_caches

CAPABILITY = torch.backends.cpu.get_cpu_capability()
"""Instruction set of this CPU, such as "AVX512", or a lower one that ATEN_CPU_CAPABILITY sets."""

INSTRUCTIONS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"),
}
"""Compiler flags by instruction set, named as torch's `get_cpu_capability` does."""

LANES = {"AVX2": 8, "AVX512": 16}
"""Float32 values per vector register, by instruction set."""


def build_cpp_library(source: Path) -> ctypes.CDLL:
    """Compile a C++ file into Inductor's cache directory, unless it is there already, and load it.

    The compiler is $CXX, or g++. Raises OSError with the reason if compiling or loading fails, or
    if the CPU has neither AVX2 nor AVX-512.
    """
    if CAPABILITY not in INSTRUCTIONS:
        raise OSError(f"{source.name} is for CPUs with AVX2 or AVX-512")
    separate_caches()
    compiler = os.environ.get("CXX", "g++")
    flags = ("-std=c++17", "-O3", "-fopenmp", "-shared", "-fPIC", *INSTRUCTIONS[CAPABILITY])
    key = hashlib.sha256(repr((source.read_bytes(), compiler, flags)).encode()).hexdigest()[:16]
    built = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "llamac", f"{source.stem}-{key}.so")
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        unfinished = built.with_suffix(f".{os.getpid()}")
        command = [compiler, *flags, str(source), "-o", str(unfinished)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise OSError(error.stderr or error) from error
        unfinished.replace(built)  # other ranks may be building it too
    return ctypes.CDLL(str(built))
