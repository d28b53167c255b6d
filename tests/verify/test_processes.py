"""`llamac verify --ranks`: emitted models in real processes, and faults that they must show."""

from __future__ import annotations

from typing import Any

import pytest

from llamac.cli import main
from llamac.emit import build
from llamac.verify import processes

LAYOUTS = {
    1: {"one rank": {}},
    2: {"tp2+sp": {"tensor": 2}, "pp2": {"pipeline": 2}},
}


def rows(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(("one rank", "tp2+sp", "pp2"))]


def test_two_processes_compute_what_one_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "LAYOUTS", LAYOUTS)
    assert main(["verify", "tiny", "--ranks=1,2", "--set=model.tied_embeddings=true"]) == 0
    out = capsys.readouterr().out
    one, tensor, pipeline = rows(out)
    assert float(one.split()[4]) > 0  # against float64, not itself
    assert float(tensor.split()[3]) < processes.ROUNDING
    assert "refused: pipeline = 2 has the embedding on its first stage" in pipeline
    assert out.endswith("tiny computes the same on every layout it can have (2, 1 refused)\n")


def test_gains_whose_parts_nobody_adds_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Megatron's silent killer: norm gradients unreduced under sequence parallelism."""
    emit = build.files_of

    def broken(spec: Any, made: Any) -> dict[str, str]:
        files = emit(spec, made)
        if "runtime/distributed/sharded_optimizer.py" in files:
            text = files["runtime/distributed/sharded_optimizer.py"]
            assert "self._add_over_tensor_ranks()" in text
            call = "            self._add_over_tensor_ranks()\n"
            files["runtime/distributed/sharded_optimizer.py"] = text.replace(
                call, "            pass\n"
            )
        return files

    monkeypatch.setattr(processes, "LAYOUTS", {2: {"tp2+sp": {"tensor": 2}}})
    monkeypatch.setattr("llamac.emit.build.files_of", broken)
    assert main(["verify", "tiny", "--ranks=2"]) == 3
    captured = capsys.readouterr()
    (row,) = rows(captured.out)
    assert row.endswith("MISSED")
    assert "norm is off by" in captured.err


def test_other_numbers_of_ranks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "tiny", "--ranks=3"]) == 2
    assert "'3' is not a list of 1, 2, 4" in capsys.readouterr().err
