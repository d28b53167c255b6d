"""The emitted trainer on several processes: the curve and the weights of one, on every layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llamac.cli.train import torchrun_environment
from llamac.emit.build import files_of, write_directory
from llamac.passes.pass_list import stages
from llamac.spec import Spec

from .conftest import Trainer, rows, write_program

pytestmark = pytest.mark.slow

LAYOUTS = {
    "fsdp2": ("parallel.data_shard=2",),
    "fsdp2, each": ("parallel.data_shard=2", "parallel.reduce_each=true"),
    "hsdp": ("parallel.data_replicate=2", "parallel.data_shard=2"),
    "pp2": ("parallel.pipeline=2",),
    "tp2·pp2": ("parallel.pipeline=2", "parallel.tensor=2"),
}
FP32 = ('precision.compute="fp32"', "batch.micro_batch=1", "checkpoint.every=3")
ROUNDING = 1e-5  # relative: sums taken in another order


def torchrun(
    directory: Path, spec: Spec, run: Path, *arguments: str, before: str = "", restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    """The spec's trainer on all its ranks as users start it, each after the code in `before`."""
    program = write_program(directory, spec, before)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={spec.parallel.ranks}", f"--max-restarts={restarts}"]
    command += ["--", str(program)]
    return subprocess.run(
        [*command, "--run", str(run), *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | torchrun_environment(spec) | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


def assert_same_curve(run: Path, other: Path) -> None:
    ours, theirs = rows(run), rows(other)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for key in ("tokens", "loss", "lr", "grad_norm"):
        assert [row[key] for row in ours] == pytest.approx(
            [row[key] for row in theirs], rel=ROUNDING
        )
    both = [(a, b) for a, b in zip(ours, theirs, strict=True) if "validation_loss" in b]
    for a, b in both:  # a run that stopped on the way evaluated there as well
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=ROUNDING)
    assert both


@pytest.fixture(scope="module")
def alone(tmp_path_factory, make_spec) -> tuple[Trainer, Path]:
    """One rank, four micro-batches a step, for six steps."""
    trainer = Trainer(tmp_path_factory.mktemp("alone"), make_spec(*FP32))
    run = tmp_path_factory.mktemp("alone-run")
    assert trainer.run(run, "--steps", "6") == 0
    return trainer, run


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_has_the_curve_and_the_weights_of_one_rank(
    alone, start_ranks, make_spec, tmp_path, layout
):
    trainer, expected = alone
    done = start_ranks(
        tmp_path / layout, make_spec(*FP32, *LAYOUTS[layout]), tmp_path / "run", "--steps", "6"
    )
    assert done.returncode == 0, done.stderr
    assert_same_curve(tmp_path / "run", expected)
    ours, theirs = trainer.weights(tmp_path / "run"), trainer.weights(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-6, msg=name)
    assert done.stdout.count("start: after step 0") == 1  # one rank speaks for all
    assert samples(tmp_path / "run") == samples(expected)


REHEARSE = """
import atexit
from llamac.verify.graph_rehearsal import GraphRehearsal
initialise = train.CudaGraph.__init__

def rehearse(graph, model, optimizer, mesh):
    done = GraphRehearsal(optimizer)
    initialise(graph, model, optimizer, mesh, done)
    atexit.register(lambda: print(f"{done.captures} captures, {done.replays} replays\\n", end=""))

train.CudaGraph.__init__ = rehearse
"""


@pytest.mark.parametrize(
    ("layout", "captured"),
    [
        ("parallel.tensor=2", "1 captures, 21 replays"),  # of 6 × 4 micro-batches
        ("parallel.data_replicate=2", "2 captures, 6 replays"),  # of 6 × (1 + 1, which reduces)
    ],
)
def test_graphs_on_two_ranks_have_the_curve_of_one(
    alone, start_ranks, make_spec, tmp_path, layout, captured
):
    spec = make_spec(*FP32, layout, 'hardware.device="auto"')
    run = tmp_path / "run"
    done = start_ranks(tmp_path / "two", spec, run, "--steps", "6", before=REHEARSE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(captured) == 2
    assert_same_curve(run, alone[1])


def samples(run: Path) -> list[str]:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event["text"] for event in events if event["event"] == "sample"]


@pytest.mark.parametrize("layout", ["tensor", "data_shard", "pipeline"])
def test_sampling_changes_nothing_of_training(start_ranks, make_spec, tmp_path, layout):
    """Two ranks, whose run ends in the same bits with samples and without."""
    ends = []
    for tokens in (4, 0):
        run = tmp_path / f"run{tokens}"
        spec = make_spec(
            *FP32, f"parallel.{layout}=2", f"eval.sample_tokens={tokens}", "eval.every=2"
        )
        done = start_ranks(tmp_path / f"of{tokens}", spec, run, "--steps", "3")
        assert done.returncode == 0, done.stderr
        assert len(samples(run)) == (2 if tokens else 0)
        ends.append([[row[key] for key in ("loss", "grad_norm")] for row in rows(run)])
        ends.append({file.name: file.read_bytes() for file in newest(run).glob("*.distcp")})
    assert ends[0] == ends[2]
    assert ends[1] == ends[3]


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("layout", ["parallel.data_shard=2", "parallel.context=2"])
def test_padding_counts_once_whatever_the_layout(start_ranks, make_spec, tmp_path, layout):
    """Micro-batches and ranks have unequal numbers of targets, and evaluation too."""
    packed = ('precision.compute="fp32"', "checkpoint.every=3", 'data.packing="best_fit"')
    trainer = Trainer(tmp_path / "alone", make_spec(*packed, "batch.micro_batch=4"))
    assert trainer.run(tmp_path / "expected", "--steps", "3") == 0
    mixture = trainer.train.Mixture(
        trainer.train.DATA_DIRECTORY, "train", trainer.train.SEQUENCE_LENGTH, 0, "best_fit"
    )
    targets = (mixture.sequences(0, 4)[:, 1:] >= 0).sum(1)
    assert len(set(targets.tolist())) > 1
    spec = make_spec(*packed, layout, "batch.micro_batch=1")
    done = start_ranks(tmp_path / "two", spec, tmp_path / "run", "--steps", "3")
    assert done.returncode == 0, done.stderr
    assert_same_curve(tmp_path / "run", tmp_path / "expected")


def test_one_rank_saves_and_two_go_on_along_the_same_curve(alone, start_ranks, make_spec, tmp_path):
    """With larger micro-batches, too: on more ranks the old ones may not divide a step."""
    trainer, expected = alone
    run = tmp_path / "run"
    assert trainer.run(run, "--steps", "3") == 0
    spec = make_spec(*FP32, *LAYOUTS["fsdp2"], "batch.micro_batch=2")
    done = start_ranks(tmp_path / "two", spec, run, "--steps", "6")
    assert done.returncode == 0, done.stderr
    assert "start: after step 3 of" in done.stdout
    assert_same_curve(run, expected)


def test_what_one_layout_saves_the_next_goes_on_from(alone, start_ranks, make_spec, tmp_path):
    run = tmp_path / "run"
    for degree, steps in (("pipeline", 2), ("tensor", 4), ("data_shard", 6)):
        spec = make_spec(*FP32, f"parallel.{degree}=2")
        done = start_ranks(tmp_path / degree, spec, run, "--steps", str(steps))
        assert done.returncode == 0, done.stderr
        assert f"start: after step {steps - 2}" in done.stdout
    assert_same_curve(run, alone[1])


KILL = """
first = os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""
MOMENTS = {
    "in a step": """
step = train.ShardedOptimizer.step
def act(self, *arguments):
    if first and self.updates == 4:
        die()
    return step(self, *arguments)
train.ShardedOptimizer.step = act
""",
    "in a save": """
write = train.checkpoint.dcp.write
def act(directory, *arguments):
    if first and "step-00000006" in str(directory):
        die()
    return write(directory, *arguments)
train.checkpoint.dcp.write = act
""",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_rank_is_killed_and_all_start_again_from_a_whole_checkpoint(
    alone, make_spec, tmp_path, moment
):
    run, spec = tmp_path / "run", make_spec(*FP32, *LAYOUTS["fsdp2"])
    before = KILL + MOMENTS[moment]
    done = torchrun(tmp_path / "two", spec, run, "--steps", "9", before=before, restarts=1)
    assert done.returncode == 0, done.stderr
    assert "start: after step 3 of" in done.stdout
    assert [row["step"] for row in rows(run)] == list(range(1, 10))
    assert [row["loss"] for row in rows(run)][:6] == pytest.approx(
        [row["loss"] for row in rows(alone[1])], rel=ROUNDING
    )
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step-00000006",
        "step-00000009",
    ]


def test_what_all_ranks_find_wrong_is_told_once(start_ranks, make_spec, tmp_path):
    spec = make_spec(*FP32, *LAYOUTS["fsdp2"])
    done = start_ranks(tmp_path / "two", spec, tmp_path / "run", "--resume", str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr.count("error: cannot resume from") == 1


def test_a_signal_to_one_rank_stops_all_after_the_same_step_saved(
    alone, start_ranks, make_spec, tmp_path
):
    trainer, expected = alone
    act = """
step = train.ShardedOptimizer.step
def act(self, *arguments):
    if self.mesh.rank == 1 and self.updates == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *arguments)
train.ShardedOptimizer.step = act
"""
    run = tmp_path / "run"
    spec = make_spec(*FP32, *LAYOUTS["fsdp2"])
    done = start_ranks(tmp_path / "two", spec, run, before=act)
    assert done.returncode == 0, done.stderr
    assert "stopped: step 4 is saved" in done.stdout
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4]
    assert trainer.run(run, "--steps", "6") == 0  # on one rank again
    assert_same_curve(run, expected)


def test_bf16_layers_read_their_rotary_tables_in_fp32(start_ranks, make_spec, tmp_path):
    show = """
forward = train.Model.forward
def shown(self, *arguments):
    self.layers[0].function = Seen(self.layers[0].function)
    train.Model.forward = forward
    return forward(self, *arguments)
class Seen:
    def __init__(self, function): self.function = function
    def apply(self, x, cos, sin, *weights):
        print("layer reads", x.dtype, cos.dtype, sin.dtype, {w.dtype for w in weights}, flush=True)
        return self.function.apply(x, cos, sin, *weights)
train.Model.forward = shown
"""
    spec = make_spec(*LAYOUTS["fsdp2"], 'precision.compute="bf16"', "batch.micro_batch=1")
    done = start_ranks(tmp_path / "two", spec, tmp_path / "run", "--steps", "1", before=show)
    assert done.returncode == 0, done.stderr
    assert "layer reads torch.bfloat16 torch.float32 torch.float32 {torch.bfloat16}" in done.stdout


def test_another_number_of_processes_is_one_clear_error(make_spec, tmp_path):
    trainer = Trainer.__new__(Trainer)
    trainer.directory = tmp_path / "two"
    spec = make_spec(*FP32, *LAYOUTS["fsdp2"])
    write_directory(trainer.directory, files_of(spec, stages(spec)))
    done = trainer.process(tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: this trainer needs 2 processes, not 1: start it with")
    assert done.stderr.count("\n") == 1
