"""Device, compiler and matmul peak, as far as any machine can show them."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llamac.runtime import machine
from llamac.runtime.machine import Compiler, RunError

CPU = torch.device("cpu")


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_missing_gpu_is_an_error_only_when_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.choose_device("auto") == machine.choose_device("cpu") == CPU
    with pytest.raises(RunError, match=r"hardware\.device"):
        machine.choose_device("cuda")


def test_to_device_keeps_the_numbers():
    array = np.arange(6).reshape(2, 3)
    assert machine.to_device(array, CPU).tolist() == array.tolist()


def test_without_a_compiler_the_reason_says_where_it_looked(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    available, why = machine.compiler_available(CPU)
    assert not available
    assert "g++" in why
    assert "clang++" in why


def test_a_compiler_that_cannot_compile_does_not_count(monkeypatch, tmp_path):
    broken = script(tmp_path / "c++", "echo 'fatal error: omp.h: no such file' >&2; exit 1")
    monkeypatch.setenv("CXX", broken)
    available, why = machine.compiler_available(CPU)
    assert not available
    assert "omp.h" in why


def test_the_second_compiler_is_left_where_inductor_looks(monkeypatch, tmp_path):
    script(tmp_path / "g++", "exit 1")
    script(tmp_path / "clang++", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "to be restored")
    monkeypatch.delenv("CXX")
    assert machine.compiler_available(CPU) == Compiler(True, "clang++")
    assert os.environ["CXX"] == "clang++"


@pytest.mark.parametrize(
    ("setting", "flops", "available", "called", "says"),
    [
        ("auto", 1e15, True, 1, "torch.compile (g++)"),
        ("auto", 1e15, False, 0, "eager, as g++"),
        ("auto", 1e12, True, 0, "so short a run"),
        ("always", 1e12, True, 1, "torch.compile"),
        ("never", 1e15, True, 0, "never"),
    ],
)
def test_compile_or_eager(monkeypatch, setting, flops, available, called, says):
    monkeypatch.setattr(machine, "compiler_available", lambda _: Compiler(available, "g++"))
    calls: list[int] = []
    assert says in machine.compile_or_eager(setting, CPU, lambda: calls.append(1), flops)
    assert len(calls) == called


def test_instruction_sets_do_not_share_compiled_regions(monkeypatch):
    monkeypatch.setattr(machine, "compiler_available", lambda _: Compiler(True, "g++"))
    places = set()
    for kind in ("AVX2", "AVX512"):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # restored afterwards
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        if kind == "AVX512":  # as an import of Inductor leaves it
            default = os.path.join(tempfile.gettempdir(), "torchinductor_me")
            monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda kind=kind: kind)
        machine.compile_or_eager("always", CPU, lambda: None, 1e15)
        places.add(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert len(places) == 2
    assert all(place.endswith(("_avx2", "_avx512")) for place in places)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    machine.compile_or_eager("always", CPU, lambda: None, 1e15)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"


def test_a_short_run_on_a_gpu_is_compiled(monkeypatch):
    monkeypatch.setattr(machine, "compiler_available", lambda _: Compiler(True, "Triton, gcc"))
    says = machine.compile_or_eager("auto", torch.device("cuda"), lambda: None, 1e12)
    assert says == "torch.compile (Triton, gcc)"


def test_always_without_a_compiler_is_an_error(monkeypatch):
    monkeypatch.setattr(machine, "compiler_available", lambda _: Compiler(False, "no g++ here"))
    with pytest.raises(RunError, match="no g\\+\\+ here"):
        machine.compile_or_eager("always", CPU, lambda: None, 1e15)


def test_matmul_peak_is_a_rate_and_leaves_randomness_alone():
    state = torch.get_rng_state()
    assert machine.matmul_peak(CPU, torch.float32, seconds=0.05) > 1e6
    assert torch.equal(torch.get_rng_state(), state)


def test_slow_trials_neither_lower_the_peak_nor_keep_the_matrices_small(monkeypatch):
    clock, products, sizes = 0.0, 0, set()

    def mm(a: torch.Tensor, _: torch.Tensor) -> None:
        nonlocal clock, products
        products += 1
        sizes.add(len(a))
        clock += 2 * len(a) ** 3 / 1e11 * (50 if products % 2 else 1)

    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=lambda: clock))
    monkeypatch.setattr(torch, "mm", mm)
    assert machine.matmul_peak(CPU, torch.float32) == pytest.approx(1e11)
    assert max(sizes) == 1024
    assert clock >= 1.0


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (RunError("mend it"), 1, "error: mend it\n"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), 1, "Not a directory: 'x'\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_person_can_mend_is_one_line(capsys, error, code, says):
    def work() -> int:
        raise error

    assert machine.report_errors(work)() == code
    printed = capsys.readouterr().err
    assert printed.endswith(says)
    assert printed.count("\n") == bool(says)


def outside(code: str, **options) -> subprocess.CompletedProcess[bytes]:
    code = f"from llamac.runtime import machine\n{code}"
    return subprocess.run([sys.executable, "-c", code], check=False, stderr=-1, **options)


@pytest.mark.slow
def test_characters_that_the_terminal_lacks_are_written_with_backslashes():
    code = "machine.report_errors(lambda: machine.log('× 6N·L 長'))()"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = outside(code, env=environment, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, rb"\xd7 6N\xb7L \u9577" + b"\n")


@pytest.mark.slow
def test_what_nobody_reads_any_more_stops_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    code = "for _ in range(9): machine.log('x')\nprint('y')\nraise SystemExit(7)"
    done = outside(code, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (7, b"")


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "", "many"])
def test_positive_takes_whole_numbers_above_zero(text):
    assert machine.positive("12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match="whole number above 0"):
        machine.positive(text)


@pytest.mark.parametrize("option", [["--resume", "some path"], ["--resume=x"], []])
def test_this_command_leaves_out_one_option_and_quotes_the_others(monkeypatch, option):
    monkeypatch.setattr(sys, "argv", ["train.py", "--run", "a b", *option, "--steps", "9"])
    expected = [sys.executable, "train.py", "--run", "a b", "--steps", "9"]
    assert shlex.split(machine.this_command("--resume")) == expected


def test_this_command_of_several_processes_starts_all_of_its_node(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--resume", "auto"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=4", "--"]
    assert shlex.split(machine.this_command("--resume")) == [*torchrun, "train.py"]


def test_peak_memory_covers_this_process():
    assert machine.peak_memory_bytes(CPU) > 50e6


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.empty(10**15),
        lambda: bytearray(10**16),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.\nTried …")),
    ],
    ids=["cpu", "python", "cuda"],
)
def test_running_out_of_memory_is_one_error_with_a_way_out(capsys, work):
    assert machine.report_errors(work)() == 1
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory: set a smaller batch.micro_batch")
    assert said.count("\n") == 1


def test_other_errors_of_torch_are_raised():
    with pytest.raises(RuntimeError, match="shapes"):
        machine.report_errors(lambda: int(torch.ones(2, 3).mm(torch.ones(2, 3)).sum()))()
