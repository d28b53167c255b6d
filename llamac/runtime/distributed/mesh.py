"""Device mesh of a run: its processes, which torchrun starts, along named axes, outermost first.

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
    """Source of numbered training sequences, such as `runtime.data.mixture.Mixture`.

    padding_input: id of the token that replaces padding in inputs, or PADDING to keep it.
    """

    padding_input: int

    def read_sequences(self, starts: Iterable[int], count: int) -> np.ndarray:
        """Return `count` sequences from each of n starts: int64 [n · count, length + 1].

        starts: numbers of their first sequences. length: tokens per sequence.
        """
        ...


class Mesh:
    """The device mesh as seen from this rank. Create it with `start_mesh`.

    degrees: mesh axis → number of ranks along it, outermost first. coordinates: mesh axis → this
    rank's position. rank, size: this rank's number, and their total. ranks: all ranks over a
    separate gloo group. fsdp_mesh: mesh over which FSDP shards, or None without FSDP. replicas:
    gradient reduction over replicas without FSDP, or None. pipeline: process group of this rank's
    pipeline; only with several ranks. Methods that reduce are collectives, which all ranks must
    call; a mesh of one rank has no process group, and they return their input.
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
        """Return the mesh for FSDP, 1-D, or 2-D for HSDP; None if FSDP is not used.

        Unsharded replicas of pipeline stages use FSDP too, because torch's pipeline schedules
        control when FSDP reduces gradients.
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
        """Return whether this is rank 0, which prints and writes files for all ranks."""
        return self.rank == 0

    @property
    def data_ranks(self) -> int:
        """Return the data-parallel degree: replicas times FSDP ranks, without context ranks."""
        return self.degrees["dp_replicate"] * self.degrees["dp_shard"]

    @property
    def data_rank(self) -> int:
        """Return this rank's number among `data_ranks`, equal on its `cp`, `tp` and `pp` ranks."""
        return (
            self.coordinates["dp_replicate"] * self.degrees["dp_shard"]
            + self.coordinates["dp_shard"]
        )

    def __str__(self) -> str:
        """Return `cpu` or, for several ranks, `dp_shard 2 × tp 4 = 8 ranks of cuda`."""
        axes = [f"{axis} {ranks}" for axis, ranks in self.degrees.items() if ranks > 1]
        kind = self.device.type
        return f"{' × '.join(axes)} = {self.size} ranks of {kind}" if axes else kind

    def log(self, text: str) -> None:
        """Print a line on stdout of rank 0."""
        if self.is_first:
            log(text)

    def batch(self, mixture: Sequences, start: int, count: int, micro_batch: int) -> list[Tensor]:
        """Return this rank's [tokens, labels] of a step, int64 [n, positions] on its device.

        start, count: number of the step's first sequence, and how many it has over all ranks.
        micro_batch: sequences per micro-batch of a data rank. Data ranks take `micro_batch`
        sequences in turn, so a step has the same sequences on any number of ranks; n is the number
        that this one gets. Context ranks get their positions of the same sequences. Labels without
        a loss are PADDING; among the tokens, padding is `mixture.padding_input`.
        """
        starts = self.sequence_starts(start, count, micro_batch)
        sequences = to_device(mixture.read_sequences(starts, micro_batch), self.device)
        tokens = input_tokens(sequences[:, :-1], mixture.padding_input)
        return self.local_positions(tokens, loss_labels(sequences[:, 1:]))

    def sequence_starts(self, start: int, count: int, micro_batch: int) -> range:
        """Return the number of the first sequence of each of this rank's micro-batches.

        start, count, micro_batch: as in `batch`.
        """
        begin = start + self.data_rank * micro_batch
        return range(begin, start + count, micro_batch * self.data_ranks)

    def local_positions(self, *tensors: Tensor) -> list[Tensor]:
        """Return this context rank's positions of each tensor of full sequences, [B, S, …].

        The positions (dim 1) are those of `rank_order`; without context parallelism, all.
        """
        ranks = self.degrees["cp"]
        if ranks > 1:
            tensors = tuple(take_part(rank_order(x, 1, ranks), "cp", 1) for x in tensors)
        return [x.contiguous() for x in tensors]

    def build_model(self, make: Callable[..., nn.Module], dtype: torch.dtype) -> nn.Module:
        """Build an uninitialised model on this rank's device, with FSDP if the mesh has it.

        make: called as `make(device, dtype)`. dtype: dtype of computation. Without FSDP, parameters
        have it too. FSDP keeps trained parameters in fp32 and frozen ones in `dtype`, and sums
        gradients over its ranks in fp32; each layer's parameters are gathered while the previous
        layer runs. Under pipeline parallelism a stage's parameters stay gathered during a step,
        since gathering them for every micro-batch would take too long.
        """
        if self.fsdp_mesh is None:
            return make(self.device, dtype)
        model = make("meta", torch.float32)
        for parameter in model.parameters():
            if not parameter.requires_grad:  # frozen weights need no fp32 master
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
        for layer, following in pairwise(layers):
            layer.set_modules_to_forward_prefetch([following])
            following.set_modules_to_backward_prefetch([layer])
        modules: list[Any] = [*layers, model]
        for module in modules:  # FSDP averages by default, but the loss is a sum over all ranks
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        model.to_empty(device=self.device)
        fill = getattr(model, "make_rope_tables", None)  # learned positions have none
        if callable(fill):
            fill(self.device)
        return model

    def set_gradient_sync(self, model: nn.Module, last: bool) -> None:
        """Set whether the next backward pass reduces gradients over data and context ranks.

        model: from `build_model`. last: whether it is a step's last micro-batch; the others
        accumulate gradients locally.
        """
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(last)
        elif self.replicas is not None:
            self.replicas.begin(last)

    def wait_for_gradients(self) -> None:
        """Wait for the gradients that the last backward pass reduces over unsharded replicas.

        Does nothing under FSDP, which waits for its gradients by itself.
        """
        if self.replicas is not None:
            self.replicas.wait()

    def sum_scalars(self, loss: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
        """Sum scalars over all ranks in one all-reduce; return them as float32 [2 + len(rest)].

        loss: sum over this rank's targets; 0 on ranks without the last pipeline stage. targets:
        their number. Both are counted once per data and context rank, though all `tp` ranks pass
        the same loss, and all `tp` and `pp` ranks the same targets. rest: summed over all ranks.
        """
        tensor = self.degrees["tp"]
        own_targets = targets / (tensor * self.degrees["pp"])
        totals = torch.stack([x.detach().float() for x in (loss / tensor, own_targets, *rest)])
        if self.size > 1:
            dist.all_reduce(totals)
        return totals

    def mean(self, loss: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss per target over all ranks. loss, targets: as in `sum_scalars`."""
        total, count = self.sum_scalars(loss, targets)
        return total / count.clamp(min=1)

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of `x` over all ranks, which may overwrite `x`.

        Tensor-parallel copies count once: only ranks with `tp` coordinate 0 contribute.
        """
        if self.size == 1:
            return x
        x = x if self.coordinates["tp"] == 0 else torch.zeros_like(x)
        dist.all_reduce(x)
        return x

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true on any rank; waits for all ranks and the device."""
        return flag if self.size == 1 else bool(self.any_on_device(flag))

    def any_on_device(self, flag: bool) -> Tensor:
        """Return a float32 scalar, above 0 if `flag` is true on any rank, on the device.

        On CUDA this does not wait for the result.
        """
        flags = torch.full((), float(flag), device=self.device)
        if self.size > 1:
            dist.all_reduce(flags)
        return flags


@contextmanager
def start_mesh(degrees: Mapping[str, int], device: torch.device) -> Iterator[Mesh]:
    """Context manager that joins the processes of the run and yields the mesh.

    degrees: mesh axis → number of ranks, outermost first. device: "cuda" or "cpu"; with several
    ranks on CUDA, each uses the GPU of its LOCAL_RANK. Raises RunError if WORLD_SIZE (1 if unset)
    differs from the mesh's number of ranks.
    """
    expected, started = prod(degrees.values()), int(os.environ.get("WORLD_SIZE", "1"))
    if started != expected:
        raise RunError(
            f"this trainer needs {expected} processes, not {started}: start it with torchrun "
            f"--nproc-per-node {expected}, or with a script in launch/",
            printing_rank=0,
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
