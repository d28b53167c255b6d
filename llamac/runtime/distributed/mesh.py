"""The processes of a run as a mesh of named axes, outermost first; torchrun starts them.

pp             pipeline ranks, each with one or several stages of layers
dp_replicate   copies of the sharded model (HSDP)
dp_shard       ranks that shard parameters, gradients and optimizer state (FSDP)
cp             ranks that split each sequence; FSDP counts them as ranks of dp_shard
tp             ranks that split each layer's weights, or its positions
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ..errors import RunError
from ..kernels.padding import input_tokens, loss_labels
from ..machine import log, to_device
from .collectives import GROUPS, ProcessGroup, take_part
from .context_parallel import rank_order
from .process_group import process_group
from .ranks import Ranks
from .replicas import Replicas


class Sequences(Protocol):
    """Numbered sequences, such as `runtime.data.mixture.Mixture`."""

    padding_input: int  # the token that padding becomes

    def read_sequences(self, starts: Iterable[int], count: int) -> np.ndarray:
        """Return `count` sequences from each start on, int64 [n, sequence_length + 1]."""
        ...


class Mesh:
    """The device mesh as seen from this rank. Create it with `start_mesh`.

    A mesh of one rank needs no process group, and has no collectives.
    """

    def __init__(
        self, degrees: Mapping[str, int], device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.degrees, self.device, self.ranks = dict(degrees), device, ranks or Ranks()
        self.size, self.rank = prod(degrees.values()), 0
        self.coordinates, self.fsdp_mesh, self.replicas = dict.fromkeys(degrees, 0), None, None
        if self.size > 1:
            self._join(device.type)

    def _join(self, kind: str) -> None:
        """Create the process groups and set this rank's coordinates."""
        degrees, self.rank = self.degrees, dist.get_rank()
        sizes = tuple(degrees.values())
        mesh = init_device_mesh(kind, sizes, mesh_dim_names=tuple(degrees))
        self.coordinates = {axis: mesh.get_local_rank(axis) for axis in degrees}
        for axis in ("cp", "tp"):
            if degrees[axis] > 1:
                group = mesh.get_group(axis)
                GROUPS[axis] = ProcessGroup(group.group_name, degrees[axis], self.coordinates[axis])
        self.pipeline = mesh.get_group("pp")
        self.fsdp_mesh = self._fsdp_mesh(kind)
        if self.fsdp_mesh is None and degrees["dp_replicate"] > 1:
            self.replicas = Replicas(mesh.get_group("dp_replicate"))

    def _fsdp_mesh(self, kind: str) -> DeviceMesh | None:
        """Return the mesh for FSDP: one dimension, or two for HSDP; None without sharding.

        Replicas of pipeline stages are FSDP's too, as torch's schedules know when it reduces.
        """
        stages, replicas = self.degrees["pp"], self.degrees["dp_replicate"]
        shards, tensor = self.degrees["dp_shard"] * self.degrees["cp"], self.degrees["tp"]
        if shards == 1 and (replicas == 1 or stages == 1):
            return None
        names = ("pp", "replicate", "shard", "tp")
        mesh = init_device_mesh(kind, (stages, replicas, shards, tensor), mesh_dim_names=names)
        return mesh["replicate", "shard"] if replicas > 1 else mesh["shard"]

    @property
    def is_first(self) -> bool:
        """Return whether this is rank 0, which prints and writes for all."""
        return self.rank == 0

    @property
    def data_ranks(self) -> int:
        """Return the number of ranks, or groups of ranks, with sequences of their own."""
        return self.degrees["dp_replicate"] * self.degrees["dp_shard"]

    @property
    def data_rank(self) -> int:
        return (
            self.coordinates["dp_replicate"] * self.degrees["dp_shard"]
            + self.coordinates["dp_shard"]
        )

    def __str__(self) -> str:
        """Return `cpu` or, for several ranks, `dp_shard 2 × tp 4 = 8 ranks of cuda`."""
        shared = [f"{axis} {ranks}" for axis, ranks in self.degrees.items() if ranks > 1]
        kind = self.device.type
        return f"{' × '.join(shared)} = {self.size} ranks of {kind}" if shared else kind

    def log(self, text: str) -> None:
        if self.is_first:
            log(text)

    def batch(self, mixture: Sequences, start: int, count: int, micro_batch: int) -> list[Tensor]:
        """Return this rank's tokens and labels of `count` sequences, int64 [n, positions] each.

        Ranks take `micro_batch` sequences in turn, so a step has the same sequences on any number
        of ranks. Labels without a loss are PADDING; padding's token is `mixture.padding_input`.
        """
        own = self.own(start, count, micro_batch)
        sequences = to_device(mixture.read_sequences(own, micro_batch), self.device)
        tokens = input_tokens(sequences[:, :-1], mixture.padding_input)
        return self.own_positions(tokens, loss_labels(sequences[:, 1:]))

    def own(self, start: int, count: int, micro_batch: int) -> range:
        """Return the first sequence of each of this rank's micro-batches."""
        begin = start + self.data_rank * micro_batch
        return range(begin, start + count, micro_batch * self.data_ranks)

    def own_positions(self, *several: Tensor) -> list[Tensor]:
        """Return this context rank's positions (dim 1) of full sequences."""
        return [self._own(x).contiguous() for x in several]

    def _own(self, x: Tensor) -> Tensor:
        ranks = self.degrees["cp"]
        return take_part(rank_order(x, 1, ranks), "cp", 1) if ranks > 1 else x

    def build_model(self, make: Callable[..., nn.Module], dtype: torch.dtype) -> nn.Module:
        """Build an uninitialised model on this rank's device, under FSDP if its state is sharded.

        make: called with (device, dtype). FSDP keeps parameters in fp32, computes in `dtype`, and
        reduces gradients in fp32; each layer's parameters are gathered while the previous layer
        runs. Under pipeline parallelism a stage's parameters stay gathered during a step, since
        gathering them for every micro-batch would take too long.
        """
        if self.fsdp_mesh is None:
            return make(self.device, dtype)
        model = make("meta", torch.float32)
        for parameter in model.parameters():
            if not parameter.requires_grad:  # frozen weights need no float32 master
                parameter.data = parameter.data.to(dtype)
        policy = MixedPrecisionPolicy(
            param_dtype=dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # constant tables stay in fp32
        )
        layers: list[Any] = list(model.get_submodule("layers").children())
        for layer in layers:
            fully_shard(
                layer,
                mesh=self.fsdp_mesh,
                mp_policy=policy,
                reshard_after_forward=self.degrees["pp"] == 1,
            )
        fully_shard(model, mesh=self.fsdp_mesh, mp_policy=policy)
        for layer, after in pairwise(layers):
            layer.set_modules_to_forward_prefetch([after])
            after.set_modules_to_backward_prefetch([layer])
        modules: list[Any] = [*layers, model]
        for module in modules:  # FSDP would average: the loss is a sum over all ranks
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        model.to_empty(device=self.device)
        fill = getattr(model, "make_rope_tables", None)  # learned positions have none
        if callable(fill):
            fill(self.device)
        return model

    def reduce_gradients(self, model: nn.Module, last: bool) -> None:
        """Set whether the next backward reduces gradients: only the last micro-batch's does."""
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(last)
        elif self.replicas is not None:
            self.replicas.begin(last)

    def wait_for_gradients(self) -> None:
        """Wait for what the last backward pass reduces over replicas; FSDP waits by itself."""
        if self.replicas is not None:
            self.replicas.wait()

    def add_up(self, loss: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
        """Sum scalars over all ranks; return float32 values in the order given.

        loss: sum over this rank's targets; 0 without the last pipeline stage. targets: their
        number. Both count once per data and context rank, not per `tp` or `pp` rank. rest: summed
        over all ranks.
        """
        same = self.degrees["tp"]
        counted = targets / (same * self.degrees["pp"])
        totals = torch.stack([x.detach().float() for x in (loss / same, counted, *rest)])
        if self.size > 1:
            dist.all_reduce(totals)
        return totals

    def mean(self, loss: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over all ranks, from each rank's sum and number of targets."""
        total, count = self.add_up(loss, targets)
        return total / count.clamp(min=1)

    def total(self, x: Tensor) -> Tensor:
        """Sum a tensor over all ranks; copies on tensor-parallel ranks count once."""
        if self.size == 1:
            return x
        x = x if self.coordinates["tp"] == 0 else torch.zeros_like(x)
        dist.all_reduce(x)
        return x

    def any(self, flag: bool) -> bool:
        """Return whether `flag` holds on any rank."""
        return flag if self.size == 1 else bool(self.any_of(flag))

    def any_of(self, flag: bool) -> Tensor:
        """Return a float32 scalar that is above 0 if `flag` holds on any rank, without waiting."""
        found = torch.full((), float(flag), device=self.device)
        if self.size > 1:
            dist.all_reduce(found)
        return found


@contextmanager
def start_mesh(degrees: Mapping[str, int], device: torch.device) -> Iterator[Mesh]:
    """Context manager that joins the processes of the run and yields the mesh.

    Raises RunError if the number of processes differs from the mesh's ranks.
    """
    expected, found = prod(degrees.values()), int(os.environ.get("WORLD_SIZE", "1"))
    if found != expected:
        raise RunError(
            f"this trainer needs {expected} processes, not {found}: start it with torchrun "
            f"--nproc-per-node {expected}, or with a script in launch/",
            teller=0,
        )
    if expected == 1:
        yield Mesh(degrees, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        with process_group(backend):
            yield Mesh(degrees, device, Ranks.world())
    finally:
        GROUPS.clear()
