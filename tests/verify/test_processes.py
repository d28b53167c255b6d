"""`llamac verify --ranks`: emitted models in real processes, and faults that they must show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from llamac.cli import main
from llamac.emit import build
from llamac.spec import load_spec
from llamac.verify import processes
from llamac.verify.rank_server import RankServer

LAYOUTS = {
    1: {"one rank": {}},
    2: {"tp2+sp": {"tensor": 2}, "pp2": {"pipeline": 2}},
}


def rows(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(("one rank", "tp2+sp", "pp2"))]


@pytest.fixture(scope="module", autouse=True)
def one_server() -> Iterator[None]:
    """Ranks of every test are forked from one process, which imports torch once."""
    with RankServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "RankServer", lambda: nullcontext(server))
        yield


@pytest.mark.slow
def test_two_processes_compute_what_one_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "LAYOUTS", LAYOUTS)
    assert main(["verify", "tiny", "--ranks=1,2", "--set=model.tied_embeddings=true"]) == 0
    out = capsys.readouterr().out
    one, tensor, pipeline = rows(out)
    assert float(one.split()[4]) > 0  # against float64, not itself
    assert float(tensor.split()[3]) < processes.ROUNDING
    assert "refused: pipeline = 2 puts the embedding on the first stage" in pipeline
    assert out.endswith("tiny computes the same on every layout (2, 1 refused)\n")


@pytest.mark.slow
def test_adapters_learn_on_two_ranks_what_they_learn_on_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shared = {"tp2+sp": {"tensor": 2}, "fsdp2": {"data_shard": 2}}
    monkeypatch.setattr(processes, "LAYOUTS", {2: shared})
    lora = [
        "init.from=" + str(tmp_path),
        "finetune.method=lora",
        'finetune.targets=["wq","wv","w2"]',
    ]
    settings = [f"--set={one}" for one in lora]
    assert main(["verify", "tiny", "--ranks=2", *settings]) == 0
    assert "lora_" in capsys.readouterr().out


@pytest.mark.slow
def test_pairs_are_compared_on_two_ranks_as_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = {"tp2+sp": {"tensor": 2}, "fsdp2": {"data_shard": 2}}
    monkeypatch.setattr(processes, "LAYOUTS", {1: LAYOUTS[1], 2: shared})
    spec = load_spec("dpo", ["init.from=base", "finetune.label_smoothing=0.1"])
    found = list(processes.compare_layouts(spec, [1, 2], build.files_of))
    assert [one.layout for one in found] == ["one rank", *shared]
    assert not any(one.failed for one in found)


@pytest.mark.slow
def test_gains_whose_parts_nobody_adds_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Megatron's silent killer: norm gradients unreduced under sequence parallelism."""
    emit = build.files_of

    def broken(spec: Any, made: Any) -> dict[str, str]:
        files = emit(spec, made)
        if "runtime/distributed/sharded_optimizer.py" in files:
            text = files["runtime/distributed/sharded_optimizer.py"]
            assert "self._sum_over_tensor_ranks()" in text
            call = "            self._sum_over_tensor_ranks()\n"
            files["runtime/distributed/sharded_optimizer.py"] = text.replace(
                call, "            pass\n"
            )
        return files

    monkeypatch.setattr(processes, "LAYOUTS", {2: {"tp2+sp": {"tensor": 2}}})
    monkeypatch.setattr("llamac.emit.build.files_of", broken)
    assert main(["verify", "tiny", "--ranks=2"]) == 3
    captured = capsys.readouterr()
    (row,) = rows(captured.out)
    assert row.endswith("FAILED")
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
        "loss / tensor",
        "loss / targets * 15 / tensor",
        "the loss",
    ),
    "the norm alone": (
        "fsdp2",
        "runtime/distributed/sharded_optimizer.py",
        "squares.sqrt()",
        "squares.sqrt() * 1.01",
        "the gradient norm",
    ),
    "copies counted once a rank": (
        "tp2+sp",
        "runtime/distributed/sharded_optimizer.py",
        "get_total_norm(gradients).square() / copies",
        "get_total_norm(gradients).square()",
        "the gradient .*",
    ),
    "clipping on each stage's own norm": (
        "pp2",
        "runtime/distributed/sharded_optimizer.py",
        "loss, targets, squares = self.mesh.sum_scalars(loss, targets, squares)",
        "loss, targets = self.mesh.sum_scalars(loss, targets)",
        "rank 0 does not skip a step with a NaN among its gradients",  # it is on rank 1
    ),
    "no clipping": (
        "one rank",
        "runtime/train/master_weights.py",
        "(norm / self.clip_norm).clamp(min=1.0)",
        "1.0",
        "the gradient of .*",
    ),
    "gradients kept from the step before": (
        "one rank",
        "runtime/train/master_weights.py",
        "self.algorithm.zero_grad(set_to_none=not self.keeps_gradients)",
        "pass",
        "the gradient .*",
    ),
    "every rank reads the same sequences": (
        "fsdp2",
        "runtime/distributed/mesh.py",
        "start + self.data_rank * micro_batch",
        "start",
        "the (loss|gradient).*",
    ),
    "labels are the tokens themselves": (
        "one rank",
        "runtime/distributed/mesh.py",
        "sequences[:, 1:])",
        "sequences[:, :-1])",
        "the (loss|gradient).*",
    ),
    "gradients of copied key heads are not added": (
        "tp4+sp",
        "runtime/distributed/sharded_optimizer.py",
        "        if copies:\n",
        "        if not copies:\n",
        "the gradient of layers.*w[kv]",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_step_is_found(
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

    [count] = [count for count, layouts in processes.LAYOUTS.items() if layout in layouts]
    monkeypatch.setattr(processes, "LAYOUTS", {count: {layout: processes.LAYOUTS[count][layout]}})
    monkeypatch.setattr("llamac.emit.build.files_of", broken)
    grouped = ["--set=model.n_kv_heads=2"] if "key heads" in fault else []
    assert main(["verify", "tiny", f"--ranks={count}", *grouped]) == 3
    said = capsys.readouterr().err
    assert re.search(
        rf"tiny on {re.escape(layout)} differs from one rank: (relative error \S+ in )?{where}$",
        said,
        re.M,
    )


PROBLEMS = {
    "a step with a NaN is taken": (
        "runtime/train/master_weights.py",
        "(~(torch.isfinite(norm) & torch.isfinite(loss))).float()",
        "torch.zeros_like(norm)",
        "rank 0 does not skip a step with a NaN among its gradients",
    ),
    "evaluation leaves its mode on": (
        "train.py",
        "@torch.no_grad()\ndef evaluate(",
        "def evaluate(*args):\n    torch.set_grad_enabled(False)\n    return evaluated(*args)\n\n\n"
        "def evaluated(",
        "does not require grad",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", PROBLEMS)
def test_a_fault_without_a_result_is_told(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, right, wrong, problem = PROBLEMS[fault]
    emit = build.files_of

    def broken(spec: Any, made: Any) -> dict[str, str]:
        files = emit(spec, made)
        assert right in files[file]
        return files | {file: files[file].replace(right, wrong)}

    monkeypatch.setattr("llamac.emit.build.files_of", broken)
    assert main(["verify", "tiny", "--ranks=1"]) == 3
    said = capsys.readouterr().err
    assert "tiny on one rank differs from one rank" in said
    assert problem in said


def test_other_numbers_of_ranks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "tiny", "--ranks=3"]) == 2
    assert "'3' is not a list of 1, 2, 4" in capsys.readouterr().err
