"""`llamac verify --ranks`: emitted models in real processes, and faults that they must show."""

from __future__ import annotations

import re
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
    assert re.search(r"relative error \S+ in the gradient of layers\.\d\.\w+_norm", captured.err)


FAULTS = {
    "mean of micro-batch means": (
        "one rank",
        "train.py",
        "loss = model(*micro_batch)",
        "loss = model(*micro_batch) / count_targets(micro_batch[1]) * count_targets(labels) / 4",
        "the (loss|gradient .*)",
    ),
    "mean of held-out batch means": (
        "one rank",
        "train.py",
        "(tokens, labels)\n        targets += count_targets(labels)",
        "(tokens, labels) / count_targets(labels)\n        targets += 1",
        "the loss in evaluation",
    ),
    "mean of data ranks' means": (
        "fsdp2",
        "train.py",
        "loss = model(*micro_batch)",
        "loss = model(*micro_batch) * (30 / count_targets(labels))",
        "the (loss|gradient .*)",
    ),
    "FSDP averages": (
        "fsdp2",
        "runtime/distributed/mesh.py",
        "module.set_gradient_divide_factor(1.0)",
        "module.set_gradient_divide_factor(2.0)",
        "the gradient .*",
    ),
    "mean of context ranks' means": (
        "cp2",
        "runtime/distributed/mesh.py",
        "loss / same",
        "loss / targets * 15 / same",
        "the loss",
    ),
    "the norm alone": (
        "fsdp2",
        "runtime/distributed/sharded_optimizer.py",
        "squares.sqrt()",
        "squares.sqrt() * 1.01",
        "the gradient norm",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mean_of_unequal_means_is_found(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, file, right, wrong, where = FAULTS[fault]
    emit = build.files_of

    def broken(spec: Any, made: Any) -> dict[str, str]:
        files = emit(spec, made)
        if (spec.parallel.ranks > 1) == (layout != "one rank") or file == "train.py":
            assert right in files[file]
            files[file] = files[file].replace(right, wrong)
        return files

    count = 1 if layout == "one rank" else 2
    monkeypatch.setattr(processes, "LAYOUTS", {count: {layout: processes.LAYOUTS[count][layout]}})
    monkeypatch.setattr("llamac.emit.build.files_of", broken)
    assert main(["verify", "tiny", f"--ranks={count}"]) == 3
    said = capsys.readouterr().err
    assert re.search(
        rf"tiny on {layout} is not what .*: relative error \S+ in {where}$", said, re.M
    )


def test_other_numbers_of_ranks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "tiny", "--ranks=3"]) == 2
    assert "'3' is not a list of 1, 2, 4" in capsys.readouterr().err
