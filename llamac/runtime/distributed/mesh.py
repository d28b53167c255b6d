"""The processes of a run as a mesh of named axes, outermost first; torchrun starts them.

pp             ranks that share the layers, a stage of them or several each
dp_replicate   copies of the sharded model (HSDP)
dp_shard       ranks that share parameters, gradients and optimizer state (FSDP)
cp             ranks that share each sequence; to FSDP they are more ranks of dp_shard
tp             ranks that share each layer's weights, or its positions
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
from ..machine import say, to_device
from .collectives import GROUPS, ProcessGroup, take_part
from .context_parallel import rank_order
from .ranks import Ranks


class Sequences(Protocol):
    """Numbered sequences, such as `runtime.data.mixture.Mixture`."""

    def picked(self, starts: Iterable[int], count: int) -> np.ndarray:
        """Return `count` sequences from each start on, int64 [n, sequence_length + 1]."""
        ...


class Mesh:
    """This process's place among the others. Make it with `started`.

    A mesh of one rank needs no process group, and has no collectives.
    """

    def __init__(
        self, degrees: Mapping[str, int], device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.degrees, self.device, self.ranks = dict(degrees), device, ranks or Ranks()
        self.size, self.rank = prod(degrees.values()), 0
        self.at, self.sharded = dict.fromkeys(degrees, 0), None
        if self.size > 1:
            self._join(device.type)

    def _join(self, kind: str) -> None:
        """Find this process's coordinates and groups."""
        degrees, self.rank = self.degrees, dist.get_rank()
        sizes = tuple(degrees.values())
        mesh = init_device_mesh(kind, sizes, mesh_dim_names=tuple(degrees))
        self.at = {axis: mesh.get_local_rank(axis) for axis in degrees}
        for axis in ("cp", "tp"):
            if degrees[axis] > 1:
                group = mesh.get_group(axis)
                GROUPS[axis] = ProcessGroup(group.group_name, degrees[axis], self.at[axis])
        self.pipeline = mesh.get_group("pp")
        self.sharded = self._sharded(kind)

    def _sharded(self, kind: str) -> DeviceMesh | None:
        """The mesh for FSDP, of one dimension, or of two for HSDP."""
        stages, replicas = self.degrees["pp"], self.degrees["dp_replicate"]
        shards, tensor = self.degrees["dp_shard"] * self.degrees["cp"], self.degrees["tp"]
        if replicas * shards == 1:
            return None
        names = ("pp", "replicate", "shard", "tp")
        mesh = init_device_mesh(kind, (stages, replicas, shards, tensor), mesh_dim_names=names)
        return mesh["replicate", "shard"] if replicas > 1 else mesh["shard"]

    @property
    def first(self) -> bool:
        """Return whether this is rank 0, which prints and writes for all."""
        return self.rank == 0

    @property
    def data_ranks(self) -> int:
        """Ranks, or groups of ranks, that read sequences of their own."""
        return self.degrees["dp_replicate"] * self.degrees["dp_shard"]

    @property
    def data_rank(self) -> int:
        return self.at["dp_replicate"] * self.degrees["dp_shard"] + self.at["dp_shard"]

    def __str__(self) -> str:
        """`cpu`; of several ranks `dp_shard 2 × tp 4 = 8 ranks of cuda`."""
        shared = [f"{axis} {ranks}" for axis, ranks in self.degrees.items() if ranks > 1]
        kind = self.device.type
        return f"{' × '.join(shared)} = {self.size} ranks of {kind}" if shared else kind

    def say(self, text: str) -> None:
        if self.first:
            say(text)

    def batch(self, mixture: Sequences, start: int, count: int, micro_batch: int) -> list[Tensor]:
        """Return this rank's tokens and labels of `count` sequences, int64 [n, positions] each.

        Ranks take turns of `micro_batch` sequences, so a step's are the same on any number of them.
        Padding keeps its label, and as a token is any.
        """
        own = range(
            start + self.data_rank * micro_batch, start + count, micro_batch * self.data_ranks
        )
        sequences = to_device(mixture.picked(own, micro_batch), self.device)
        return self.own_positions(sequences[:, :-1].clamp(min=0), sequences[:, 1:])

    def own_positions(self, *several: Tensor) -> list[Tensor]:
        """This rank's positions (dim 1) of whole sequences."""
        return [self._own(x).contiguous() for x in several]

    def _own(self, x: Tensor) -> Tensor:
        ranks = self.degrees["cp"]
        return take_part(rank_order(x, 1, ranks), "cp", 1) if ranks > 1 else x

    def model(self, make: Callable[..., nn.Module], dtype: torch.dtype) -> nn.Module:
        """Build a model on this rank's device, under FSDP if ranks share its state; no weights yet.

        make: called with (device, dtype). FSDP keeps parameters in fp32, computes in `dtype`, and
        reduces gradients in fp32; each layer's parameters are gathered while the layer before it
        works. No rank ever has all of them, except those of a pipeline stage during a step: to
        gather them for every micro-batch would take too long.
        """
        if self.sharded is None:
            return make(self.device, dtype)
        model = make("meta", torch.float32)
        policy = MixedPrecisionPolicy(
            param_dtype=dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # the tables that layers read stay in fp32
        )
        layers: list[Any] = list(model.get_submodule("layers").children())
        for layer in layers:
            fully_shard(
                layer,
                mesh=self.sharded,
                mp_policy=policy,
                reshard_after_forward=self.degrees["pp"] == 1,
            )
        fully_shard(model, mesh=self.sharded, mp_policy=policy)
        for layer, after in pairwise(layers):
            layer.set_modules_to_forward_prefetch([after])
            after.set_modules_to_backward_prefetch([layer])
        modules: list[Any] = [*layers, model]
        for module in modules:  # FSDP would average: the loss is a sum over all ranks
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        model.to_empty(device=self.device)
        if callable(fill := getattr(model, "make_tables", None)):  # learned positions need none
            fill(self.device)
        return model

    def reduce_gradients(self, model: nn.Module, last: bool) -> None:
        """Should the next backward reduce gradients over ranks? After a step's last micro-batch."""
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(last)

    def add_up(self, loss: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
        """Sum scalars over all ranks: float32, in the order given.

        loss: the sum over this rank's own targets; 0 where it has not the last pipeline stage.
        targets: their number. Both count once, though ranks of `tp` have the same, and ranks of
        `pp` the same targets. rest: added up over every rank as they are.
        """
        same = self.degrees["tp"]
        counted = targets / (same * self.degrees["pp"])
        totals = torch.stack([x.detach().float() for x in (loss / same, counted, *rest)])
        if self.size > 1:
            dist.all_reduce(totals)
        return totals

    def mean(self, loss: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over all ranks' targets, from this rank's sum and their number."""
        total, count = self.add_up(loss, targets)
        return total / count.clamp(min=1)

    def any(self, flag: bool) -> bool:
        """Return whether `flag` holds on any rank."""
        if self.size == 1:
            return flag
        found = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(found)
        return bool(found.item())


@contextmanager
def started(degrees: Mapping[str, int], device: torch.device) -> Iterator[Mesh]:
    """Join the other processes, if there are any, as a context manager.

    Raises RunError unless as many were started as the mesh has ranks.
    """
    wanted, found = prod(degrees.values()), int(os.environ.get("WORLD_SIZE", "1"))
    if found != wanted:
        raise RunError(
            f"this trainer is for {wanted} processes, not {found}: start it with "
            f"torchrun --nproc-per-node {wanted}, or by a script of launch/",
            teller=0,
        )
    if wanted == 1:
        yield Mesh(degrees, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend)
    try:
        yield Mesh(degrees, device, Ranks.world())
    finally:
        GROUPS.clear()
        dist.destroy_process_group()
