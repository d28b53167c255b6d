"""Dry run: one training step of the emitted code as rank 0 of a fake process group.

Tensors are fake and hold no data, so that a step of 65B on 2,048 ranks fits on a laptop. The
emitted model.py and runtime run op by op.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as distributed_c10d
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from llamac.ir.types import DTYPES
from llamac.passes.lower import COMPUTE_DTYPE
from llamac.spec import Spec


@dataclass
class Report:
    """Memory and communication of rank 0 in one training step.

    ranks: number of ranks of the run.
    parameters: elements of rank 0's trained parameters, after sharding.
    parameter_bytes: their bytes, in fp32 under FSDP and else in the compute dtype.
    state_bytes: bytes of optimizer state on rank 0, with master weights if parameters are bf16.
    micro_batches: micro-batches of rank 0 per step.
    collectives: (kind, ranks of the group) → [calls, sum of input bytes] of rank 0.
    """

    ranks: int
    parameters: int = 0
    parameter_bytes: int = 0
    state_bytes: int = 0
    micro_batches: int = 0
    collectives: dict[tuple[str, int], list[int]] = field(default_factory=dict)


class _CollectiveCounter(TorchDispatchMode):
    """Dispatch mode that counts functional and FSDP collectives by kind and group size."""

    def __init__(self, report: Report, repeats: int) -> None:
        super().__init__()
        self.report, self.repeats = report, repeats

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        namespace = op.namespace
        sends = not any(word in op.__name__ for word in ("wait", "recv"))
        if namespace in ("c10d", "_c10d_functional") and sends:
            kind, size, moved = _collective_of(op, args)
            entry = self.report.collectives.setdefault((kind, size), [0, 0])
            entry[0] += self.repeats
            entry[1] += self.repeats * moved
        return op(*args, **(kwargs or {}))


KINDS = {
    "all_gather": "all_gather",
    "allgather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "allreduce": "all_reduce",
    "all_reduce": "all_reduce",
}
"""Kind of a collective by a part of its operator's name."""


def _collective_of(op: Any, args: tuple[Any, ...]) -> tuple[str, int, int]:
    """Return a collective's kind, number of ranks and input bytes per rank."""
    name = op.__name__.lstrip("_")
    kind = next((kind for start, kind in KINDS.items() if start in name), name.partition(".")[0])
    if op.namespace == "_c10d_functional":
        group = distributed_c10d._resolve_process_group(args[-1])  # pyright: ignore
        return kind, group.size(), args[0].nbytes
    groups = [arg for arg in args if isinstance(arg, torch.ScriptObject)]
    size = dist.ProcessGroup.unbox(groups[0]).size() if groups else dist.get_world_size()
    payload = args[1] if kind in ("all_gather", "reduce_scatter") else args[0]
    return kind, size, sum(tensor.nbytes for tensor in _tensors(payload))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def dry_run(spec: Spec, module: Any) -> Report:
    """Run one training step of rank 0 on fake tensors and return its memory and communication.

    module: the imported model.py that was emitted for `spec`. The importable package `runtime` must
    be the one emitted with it.
    """
    parallel = spec.parallel
    report = Report(parallel.ranks)
    runtime = {
        name: importlib.import_module(f"runtime.distributed.{name}")
        for name in ("mesh", "param_sharding", "sharded_optimizer")
    }
    rules = importlib.import_module(f"runtime.optimizers.{spec.optimizer.kind}")
    algorithm = getattr(rules, type(spec.optimizer).__name__)
    own = range(0, parallel.stages, parallel.pipeline)  # the stages of rank 0
    tables = getattr(module, "SHARDING", {"packed": module.PACKED})
    sharding = runtime["param_sharding"].ParamSharding(**tables, size=parallel.tensor, rank=0)
    dtype = DTYPES[COMPUTE_DTYPE[spec.precision.compute]]
    with _fake_group(report.ranks):
        mesh = runtime["mesh"].Mesh(parallel.mesh, torch.device("cpu"))
        with FakeTensorMode(allow_non_fake_inputs=True):
            makers = [partial(module.Model, stage=n) for n in own]
            if parallel.stages == 1:
                makers = [module.Model]
            models = [mesh.build_model(make, dtype) for make in makers]
            optimizer = runtime["sharded_optimizer"].ShardedOptimizer(
                chain.from_iterable(model.named_parameters() for model in models),
                sharding,
                mesh,
                algorithm,
                **spec.optimizer.hyperparameters,
            )
            _count(report, optimizer)
            _step(spec, mesh, models, optimizer, report)
    return report


def _step(spec: Spec, mesh: Any, models: list[Any], optimizer: Any, report: Report) -> None:
    """Run one optimizer step of rank 0, recording its work in `report`.

    Middle micro-batches do equal work, so one is run and counted for all; without pipeline
    parallelism it counts for the first as well.
    """
    batch = spec.batch
    report.micro_batches = spec.micro_batches
    shape = (batch.micro_batch, batch.sequence_length)
    total = torch.zeros(())
    simulated = min(report.micro_batches, 1 + (mesh.degrees["pp"] > 1))  # the first and the last
    repeats = [1] * simulated
    if report.micro_batches > simulated:
        repeats.insert(simulated - 1, report.micro_batches - simulated)
    for number, count in enumerate(repeats, 1):
        last = number == len(repeats)
        with _CollectiveCounter(report, count):
            tokens, labels = mesh.local_positions(*torch.zeros(2, *shape, dtype=torch.int64))
            for model in models:
                mesh.set_gradient_sync(model, last or spec.parallel.reduces_each)
                if mesh.fsdp_mesh and mesh.degrees["pp"] > 1:  # as PipelineStage has it
                    model.set_reshard_after_backward(last)
            if mesh.degrees["pp"] > 1:
                _run_stages(models, mesh, tokens)
                continue
            loss = models[0](tokens, labels)
            loss.backward()
            total += loss.detach()
    with _CollectiveCounter(report, 1):
        optimizer.step(spec.optimizer.lr, total, torch.ones(()))


def _run_stages(models: list[Any], mesh: Any, tokens: torch.Tensor) -> None:
    """Run forward and backward of one micro-batch through rank 0's pipeline stages in turn.

    The transfers do not depend on the schedule's order. None of these stages is the last.
    """
    group, ranks = mesh.pipeline, mesh.degrees["pp"]
    passed: list[tuple[torch.Tensor, torch.Tensor]] = []
    for model in models:
        x = tokens
        if passed:
            x = torch.empty_like(passed[0][1], requires_grad=True)
            dist.recv(x.detach(), group=group, group_src=ranks - 1)
        passed.append((x, model(x)))
        dist.send(passed[-1][1].detach(), group=group, group_dst=1)
    for x, out in reversed(passed):
        gradient = torch.empty_like(out)
        dist.recv(gradient, group=group, group_src=1)
        out.backward(gradient)
        if x.grad is not None:
            dist.send(x.grad, group=group, group_dst=ranks - 1)


def _count(report: Report, optimizer: Any) -> None:
    trained = list(optimizer.parameters.values())
    masters = list(optimizer.masters.values())
    report.parameters = sum(p.numel() for p in trained)
    report.parameter_bytes = sum(p.nbytes for p in trained)
    shadows = sum(m.nbytes for n, m in optimizer.masters.items() if n in optimizer.shadowed)
    report.state_bytes = shadows + sum(m.nbytes for m in masters) * len(optimizer.algorithm.STATES)


@contextmanager
def _fake_group(size: int) -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
