"""The processes of a run as a mesh of named axes, outermost first; torchrun starts them.

pp             ranks that share the layers, a stage of them or several each
dp_replicate   copies of the sharded model (HSDP)
dp_shard       ranks that share parameters, gradients and optimizer state (FSDP)
cp             ranks that share each sequence; to FSDP they are more ranks of dp_shard
tp             ranks that share each layer's weights, or its positions
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ..errors import RunError
from ..machine import say
from .collectives import GROUPS, ProcessGroup, take_part
from .context_parallel import rank_order
from .ranks import Ranks


class Mesh:
    """This process's place among the others. Make it with `started`."""

    def __init__(
        self, degrees: Mapping[str, int], device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.degrees, self.device, self.ranks = dict(degrees), device, ranks or Ranks()
        self.size, self.rank = dist.get_world_size(), dist.get_rank()
        kind, sizes = device.type, tuple(degrees.values())
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
        """How many ranks, or groups of them, read sequences of their own."""
        return self.degrees["dp_replicate"] * self.degrees["dp_shard"]

    @property
    def data_rank(self) -> int:
        return self.at["dp_replicate"] * self.degrees["dp_shard"] + self.at["dp_shard"]

    def say(self, text: str) -> None:
        if self.first:
            say(text)

    def own_positions(self, *several: Tensor) -> list[Tensor]:
        """This rank's positions (dim 1) of whole sequences."""
        return [self._own(x).contiguous() for x in several]

    def _own(self, x: Tensor) -> Tensor:
        ranks = self.degrees["cp"]
        return take_part(rank_order(x, 1, ranks), "cp", 1) if ranks > 1 else x

    def model(self, make: Callable[..., nn.Module], dtype: torch.dtype) -> nn.Module:
        """`make(device, dtype)`, on this rank's device and under FSDP if ranks share its state;
        its parameters hold nothing yet.

        FSDP keeps parameters in fp32, computes in `dtype`, and adds gradients up in fp32; each
        layer's are gathered while the one before it works. No rank ever has all of them, but those
        of a pipeline stage for a step: to gather them for every micro-batch would take too long.
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
        model.to_empty(device=self.device)
        if callable(fill := getattr(model, "make_tables", None)):  # learned positions need none
            fill(self.device)
        return model

    def reduce_gradients(self, model: nn.Module, last: bool) -> None:
        """Should the next backward reduce gradients over ranks? After a step's last micro-batch."""
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(last)

    @property
    def losses(self) -> int:
        """How many ranks have a loss: those of the last pipeline stage. The others count as 0."""
        return self.size // self.degrees["pp"]

    def mean(self, loss: Tensor) -> Tensor:
        """The mean of a loss over the ranks that have one."""
        total = loss.detach().clone()
        dist.all_reduce(total)
        return total / self.losses

    def any(self, flag: bool) -> bool:
        """Return whether `condition` holds on any rank."""
        found = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(found)
        return bool(found.item())


@contextmanager
def started(degrees: Mapping[str, int], device: torch.device) -> Iterator[Mesh]:
    """Join the other processes. Raises RunError unless torchrun started as many as there are."""
    wanted, found = prod(degrees.values()), int(os.environ.get("WORLD_SIZE", "1"))
    if found != wanted:
        raise RunError(
            f"this trainer is for {wanted} processes, not {found}: start it with "
            f"torchrun --nproc-per-node {wanted}, or by a script of launch/",
            teller=0,
        )
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
