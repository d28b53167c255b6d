"""A real emitted trainer, small enough to run to its end in a second."""

from __future__ import annotations

import gc
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from llamac.cli.train import torchrun_environment
from llamac.emit.build import files_of, write_directory
from llamac.passes.pass_list import stages
from llamac.spec import Spec, load_spec
from llamac.verify.rank_server import RanksEnded, RankServer

SPEC = """
name = "twelve-steps"
[model]
dim = 16
n_layers = 2
n_heads = 2
n_kv_heads = 1
multiple_of = 8
vocab_size = 344
[tokenizer]
train_bytes = "60KB"
[data]
validation = 0.2
[[data.source]]
name = "rhymes"
kind = "files"
share = 3
paths = ["{texts}/rhyme*.txt"]
[[data.source]]
name = "sums"
kind = "files"
share = 1
paths = ["{texts}/sums*.md"]
[optimizer]
lr = 1e-2
max_skipped_steps = 3
[schedule]
steps = 12
warmup_steps = 3
[batch]
sequence_length = 32
sequences = 4
micro_batch = 2
[kernels]
compile = "never"
loss_chunk = 64
[checkpoint]
every = 4
keep = 2
[log]
tensorboard = false
[eval]
every = 5
batches = 2
sample_tokens = 4
[launch]
threads = 1
[hardware]
device = "cpu"
peak_tflops = 0.1
"""


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("texts")
    for n in range(40):
        rhyme = f"Number {n} went up the hill to fetch {n + 1} pails of water.\n" * 12
        (directory / f"rhyme{n}.txt").write_text(rhyme)
        lines = [f"{n} + {k} = {n + k}; {n} * {k} = {n * k}\n" for k in range(30)]
        (directory / f"sums{n}.md").write_text("".join(lines))
    return directory


@pytest.fixture(scope="session")
def make_spec(tmp_path_factory, texts) -> Callable[..., Spec]:
    file = tmp_path_factory.mktemp("spec") / "spec.toml"
    file.write_text(SPEC.format(texts=texts))
    data = tmp_path_factory.mktemp("prepared") / "data"  # prepared once, by the first run
    return lambda *changes: load_spec(file, [f'data.directory="{data}"', *changes])


class Trainer:
    """An emitted directory; runs of its train.py go elsewhere."""

    def __init__(self, directory: Path, spec: Spec) -> None:
        self.directory = directory
        write_directory(directory, files_of(spec, stages(spec)))
        self.train = imported(directory, "train")
        self.model = self.train.Model

    def run(self, run: Path, *arguments: str) -> int:
        """train.py in this process, for its exit code."""
        gc.freeze()  # it collects garbage first: only its own, not the test session's
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", "--run", str(run), *arguments])
            return self.train.main()

    def process(
        self, run: Path, *arguments: str, before: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """train.py in a process of its own, after the code in `before`."""
        argv = [str(self.directory / "train.py"), "--run", str(run), *arguments]
        code = f"import sys; sys.path.insert(0, {str(self.directory)!r}); sys.argv = {argv!r}\n"
        code += f"import os, signal, train\n{before}\nsys.exit(train.main())"
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def weights(self, run: Path) -> dict[str, torch.Tensor]:
        """Every tensor of the newest checkpoint: weights and moments, by canonical name."""
        train = self.train
        model = train.Model(device="cpu", dtype=train.DTYPE)
        sections = self.optimizer(model).state_dict()
        newest = max((run / "checkpoints").glob("step-*"))
        train.checkpoint.load(newest, sections)
        return {
            f"{s}.{n}": chunk.tensor
            for s, chunks in sections.items()
            for n, chunk in chunks.items()
        }

    def optimizer(self, model: torch.nn.Module) -> Any:
        train, device = self.train, torch.device("cpu")
        sharding, mesh = train.ParamSharding(train.PACKED), train.Mesh(train.DEGREES, device)
        parameters = model.named_parameters()
        return train.ShardedOptimizer(parameters, sharding, mesh, train.AdamW, **train.OPTIMIZER)


def imported(directory: Path, name: str) -> ModuleType:
    """A program of an emitted directory with the modules beside it, leaving none of them behind."""
    own = ("train", "generate", "model", "whole_model", "inference", "runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))
        patch.setattr(sys, "dont_write_bytecode", True)
        try:
            return importlib.import_module(name)
        finally:
            for known in [known for known in sys.modules if known.split(".")[0] in own]:
                del sys.modules[known]


@pytest.fixture(scope="session")
def start_ranks(rank_server: RankServer) -> Callable[..., RanksEnded]:
    """Starts a spec's trainer on all its ranks, each after the code in `before`.

    The ranks are forked; `test_ranks.torchrun` starts them as users do.
    """

    def start(
        directory: Path, spec: Spec, run: Path, *arguments: str, before: str = ""
    ) -> RanksEnded:
        program = write_program(directory, spec, before)
        environment = torchrun_environment(spec)
        given = ("--run", str(run), *arguments)
        return rank_server.run(
            program, *given, ranks=spec.parallel.ranks, timeout=200, environment=environment
        )

    return start


def write_program(directory: Path, spec: Spec, before: str) -> Path:
    """Emit the trainer; return a program beside its directory that runs it after `before`."""
    write_directory(directory, files_of(spec, stages(spec)))
    program = directory.parent / f"start-{directory.name}.py"
    code = f"import sys; sys.path.insert(0, {str(directory)!r})\nimport os, signal, train\n"
    program.write_text(f"{code}{before}\nsys.exit(train.main())\n")
    return program


@pytest.fixture(scope="session", params=["fp32", "bf16"])
def trainer(request) -> Trainer:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def fp32(tmp_path_factory, make_spec) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("only-fp32"), make_spec('precision.compute="fp32"'))


@pytest.fixture(scope="session")
def bf16(tmp_path_factory, make_spec) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("only-bf16"), make_spec('precision.compute="bf16"'))


@pytest.fixture(scope="session")
def straight(trainer, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("straight")
    assert trainer.run(run) == 0
    return run


@pytest.fixture(scope="session")
def fp32_straight(fp32, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("fp32-straight")
    assert fp32.run(run) == 0
    return run


@pytest.fixture
def patched(fp32) -> Iterator[Callable[..., None]]:
    """Changes constants of the fp32 trainer for one test."""
    with pytest.MonkeyPatch.context() as patch:

        def change(**values: Any) -> None:
            for name, value in values.items():
                patch.setattr(fp32.train, name, value)

        yield change


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def curve(run: Path) -> list[tuple[Any, ...]]:
    """What must be the same in every run of one spec on one machine."""
    keys = ("step", "tokens", "loss", "lr", "grad_norm", "validation_loss", "skipped_steps")
    return [tuple(row.get(key) for key in keys) for row in rows(run)]


# Makes each rank write down the sequences that it reads.
READ = """
class Noted(train.{reader}):
    def __init__(self, directory, split, *rest, **options):
        super().__init__(directory, split, *rest, **options)
        self.file = "{directory}/read-" + split + os.environ["RANK"]
    def read_sequences(self, starts, count):
        starts = list(starts)
        with open(self.file, "a") as file:
            file.writelines(f"{{n}}\\n" for start in starts for n in range(start, start + count))
        return super().read_sequences(starts, count)
train.{reader} = Noted
"""


def assert_read_once(directory: Path, sequences: int, shared: bool) -> None:
    """Assert what two ranks read: each the half, disjoint and complete, or both all of it.

    sequences: of a run's steps; the next step's are read ahead.
    """
    found = [
        [n for n in map(int, path.read_text().split()) if n < sequences]
        for path in sorted(directory.glob("read-train*"))
    ]
    assert len(found) == 2
    for rank in found if shared else [found[0] + found[1]]:
        assert sorted(rank) == list(range(sequences))
    assert len(found[0]) == len(found[1])
