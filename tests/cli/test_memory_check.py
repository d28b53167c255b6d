"""`train` refuses what this machine has not the memory for, and says what would fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamac.cli import main
from llamac.cli.preflight import memory_check
from llamac.cli.preflight.memory_check import MemoryShortageError, require_memory
from llamac.passes.pass_list import compile_spec
from llamac.spec import load_spec


def test_train_refuses_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory_check, "machine_memory", lambda: 100_000_000)
    assert main(["train", "tiny", "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "of memory, and this machine has 0.1 GB" in said
    assert "--anyway" in said
    assert not (tmp_path / "run").exists()


def test_what_would_fit_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec("125m", ["batch.micro_batch=8"])
    monkeypatch.setattr(memory_check, "machine_memory", lambda: 4_000_000_000)
    with pytest.raises(MemoryShortageError, match="These changes would fit") as caught:
        require_memory(spec, compile_spec(spec))
    ways = [line.split() for line in str(caught.value).splitlines() if "needs" in line][1:]
    assert ways
    for words in ways:
        smaller = load_spec("125m", words[1 : words.index("needs") : 2])
        require_memory(smaller, compile_spec(smaller))


def test_the_least_it_needs_is_said_where_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec("tiny")
    monkeypatch.setattr(memory_check, "machine_memory", lambda: 1)
    with pytest.raises(MemoryShortageError, match="Its smallest layout needs"):
        require_memory(spec, compile_spec(spec))


def test_ranks_on_one_cpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (
        load_spec("tiny"),
        load_spec("tiny", ["parallel.data_replicate=2", "batch.micro_batch=4"]),
    )
    program = compile_spec(one)
    monkeypatch.setattr(memory_check, "_peak", lambda *_: 10.0)
    monkeypatch.setattr(memory_check, "machine_memory", lambda: 15)
    require_memory(one, program)
    with pytest.raises(MemoryShortageError):
        require_memory(two, compile_spec(two))
