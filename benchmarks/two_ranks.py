"""A training step by two gloo processes: overlap against none, and layouts against plain DDP.

    python benchmarks/two_ranks.py [--rounds 15]

How each figure is taken:
- All contestants live in the same two processes, one thread each, have the same weights and train
  on the same 8 sequences a step; losses and gradient norms were seen to agree before. They take
  turns step by step, starting with another one each round, after a barrier. A step is forward,
  backward, all that passes between ranks, clip and fused AdamW, uncompiled, on rank 0's clock. A
  ratio is the median over rounds of the ratios within a round, with the lowest and the highest.
- Exposed: of a step, the time that rank 0 stood waiting for a collective of tensor parallelism.
- torch-ddp is the emitted one-rank model under torch's DistributedDataParallel; hf-ddp is
  transformers' LlamaForCausalLM under the same. The others are as the emitted trainer has them.

Processes on one machine share its memory bus, and gloo itself computes on the cores that train:
what overlap can hide here is waiting for the other process, not the copying.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.distributed as dist
from contest import (
    MasterAdamW,
    emitted_model,
    hf_loss,
    hf_model,
    mean_loss,
    random_batch,
    random_weights,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from train_cpu import machine, pairwise, summary

from llamac.emit.build import files_of
from llamac.emit.importing import import_emitted
from llamac.passes.pass_list import stages
from llamac.runtime.distributed.process_group import process_group
from llamac.spec import Spec, load_spec

HERE = Path(__file__).resolve().parent
SPEC = HERE / "bench-14m.toml"
RESULT = HERE / "results" / "two_ranks.json"
LAYOUTS = {
    "tp2": ("parallel.tensor=2",),
    "tp2-no-overlap": ("parallel.tensor=2", "parallel.overlap=false"),
    "fsdp2": ("parallel.data_shard=2",),
    "ddp2": ("parallel.data_replicate=2",),
}
PLAIN = ("torch-ddp", "hf-ddp")
LR = 1e-4
MODULES = ("collectives", "mesh", "sharded_optimizer", "param_sharding")

Step = Callable[[Tensor, Tensor], tuple[float, float]]
"""One training step on all of its sequences; returns loss and gradient norm, over both ranks."""


class Waiting:
    """Seconds that `wait` of a copy of `runtime`'s collectives took, since the last `take`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, group: Any) -> None:
        plain = group.wait

        def wait(this: Any, x: Tensor) -> Tensor:
            began = time.perf_counter()
            found = plain(this, x)
            self.seconds += time.perf_counter() - began
            return found

        group.wait = wait

    def take(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def layout(spec: Spec, weights: dict[str, Tensor], waiting: Waiting) -> Step:
    """The emitted model on the mesh that the spec asks for, as the emitted trainer runs it."""
    with import_emitted(files_of(spec, stages(spec))) as module:
        runtime = {name: importlib.import_module(f"runtime.distributed.{name}") for name in MODULES}
        algorithm = importlib.import_module("runtime.optimizers.adamw").AdamW
    waiting.watch(runtime["collectives"].ProcessGroup)
    mesh = runtime["mesh"].Mesh(spec.parallel.mesh, torch.device("cpu"))
    tables = getattr(module, "SHARDING", {"packed": module.PACKED})
    sharding = runtime["param_sharding"].ParamSharding(
        **tables, size=mesh.degrees["tp"], rank=mesh.coordinates["tp"]
    )
    model = mesh.build_model(module.Model, torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for canonical, chunk in sharding.chunks(
                name, parameter, runtime["param_sharding"].local(parameter)
            ):
                pairs = zip(chunk.offsets, chunk.tensor.shape, strict=True)
                place = tuple(slice(start, start + size) for start, size in pairs)
                chunk.tensor.copy_(weights[canonical][place])
    options = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}
    optimizer = runtime["sharded_optimizer"].ShardedOptimizer(
        model.named_parameters(), sharding, mesh, algorithm, **options
    )

    def step(tokens: Tensor, labels: Tensor) -> tuple[float, float]:
        own = slice(mesh.data_rank, None, mesh.data_ranks)
        mesh.set_gradient_sync(model, True)
        loss = model(tokens[own], labels[own])
        loss.backward()
        outcome = optimizer.read(
            optimizer.step(LR, loss.detach(), torch.tensor(labels[own].numel()))
        )
        return outcome.loss, outcome.grad_norm

    return step


def plain(name: str, spec: Spec, weights: dict[str, Tensor]) -> Step:
    """A model of one rank under torch's DistributedDataParallel."""
    if name == "hf-ddp":
        hf = hf_model(spec.model, weights, spec.batch.sequence_length, "cpu", torch.float32)
        model: nn.Module = DistributedDataParallel(hf)
        loss_of = hf_loss(model)
    else:
        with import_emitted(files_of(spec, stages(spec))) as module:
            emitted = emitted_model(module, weights, "cpu", torch.float32)
        model = DistributedDataParallel(emitted)
        loss_of = mean_loss(model)
    optimizer = MasterAdamW(model.parameters())

    def step(tokens: Tensor, labels: Tensor) -> tuple[float, float]:
        own = slice(dist.get_rank(), None, dist.get_world_size())
        loss = loss_of(tokens[own], labels[own])
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        return mean.item() / dist.get_world_size(), norm.item()

    return step


def worker(rounds: int, out: Path) -> None:
    torch.set_num_threads(1)
    description, waiting = machine(), Waiting()
    spec = load_spec(SPEC)
    length, sequences = spec.batch.sequence_length, spec.batch.sequences
    weights = random_weights(spec.model, length)
    tokens, labels = random_batch(spec.model, sequences, length)
    smaller = "batch.micro_batch=4"  # so that two data ranks divide a step
    steps = {
        name: layout(load_spec(SPEC, [smaller, *overrides]), weights, waiting)
        for name, overrides in LAYOUTS.items()
    }
    steps |= {name: plain(name, spec, weights) for name in PLAIN}

    first = {name: step(tokens, labels) for name, step in steps.items()}
    for figures in zip(*first.values(), strict=True):
        if max(figures) - min(figures) > 1e-4 * min(figures):
            raise SystemExit(f"losses or norms differ, nothing was timed: {first}")

    times: dict[str, list[float]] = {name: [] for name in steps}
    exposed: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for number in range(rounds):
        turn = number % len(order)
        for name in (*order[turn:], *order[:turn]):
            dist.barrier()
            waiting.take()
            began = time.perf_counter()
            steps[name](tokens, labels)
            times[name].append(time.perf_counter() - began)
            exposed[name].append(waiting.take())
        if dist.get_rank() == 0:
            print(f"\rround {number + 1} of {rounds}", end="", flush=True)
    if dist.get_rank() == 0:
        print()
        rows = {
            name: {
                "first_loss": first[name][0],
                "step_seconds": summary(times[name]),
                "exposed_seconds": statistics.median(exposed[name]),
                "tokens_per_second": sequences * length / statistics.median(times[name]),
            }
            for name in steps
        }
        result = {
            "how": __doc__,
            "machine": description,
            "spec": SPEC.name,
            "sequences": sequences,
            "sequence_length": length,
            "rounds": rounds,
            "contestants": rows,
            "overlap": pairwise({n: times[n] for n in ("tp2", "tp2-no-overlap")}, "tp2"),
            "against_torch_ddp": {
                name: pairwise({n: times[n] for n in (name, "torch-ddp")}, name)["torch-ddp"]
                for name in steps
                if name != "torch-ddp"
            },
        }
        report(result)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def report(result: dict[str, Any]) -> None:
    print(f"{'':16}{'step':>9}{'exposed':>10}{'tokens/s':>10}{'of torch-ddp':>24}")
    for name, row in result["contestants"].items():
        ratio = result["against_torch_ddp"].get(name)
        against = (
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else ""
        )
        print(
            f"{name:16}{row['step_seconds']['median']:8.3f}s{row['exposed_seconds']:9.3f}s"
            f"{row['tokens_per_second']:10.0f}{against:>24}"
        )
    ratio = result["overlap"]["tp2-no-overlap"]
    print(
        f"\nwith overlap tp2 is {ratio['median']:.2f}× as fast as without "
        f"(rounds {ratio['min']:.2f} to {ratio['max']:.2f})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each contestant")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    options = parser.parse_args()
    if "RANK" in os.environ:
        with process_group("gloo"):
            worker(options.rounds, options.out)
        return 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run([*command, "--", *sys.argv], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
