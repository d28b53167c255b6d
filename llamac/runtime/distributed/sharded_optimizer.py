"""Sharded optimizer: each rank updates its shards of the weights, clipped by the global norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.nn.utils import get_total_norm

from ..checkpoint.dcp import TensorChunk
from ..errors import RunError
from ..train.master_weights import MixedPrecisionOptimizer
from . import collectives
from .mesh import Mesh
from .param_sharding import ParamSharding, local_shard
from .replicas import flatten, unflatten


class ShardedOptimizer(MixedPrecisionOptimizer):
    """`MixedPrecisionOptimizer` for this rank's shards of the parameters.

    FSDP's fp32 shards serve as masters. FSDP or `Replicas` reduce gradients over data and context
    ranks during the backward pass. Once per step, tensor-parallel ranks all-reduce gradients that
    are partial sums: those of norm gains under sequence parallelism, and of replicated key heads
    (Megatron-LM's finalize_model_grads). Frozen parameters (no `requires_grad`) have no master,
    gradient or state, and are not in the norm.

    parameters: (name, parameter) of this rank's model. sharding: its tensor-parallel sharding.
    algorithm: update rule, such as `AdamW`. arguments: further arguments of the base class.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        sharding: ParamSharding,
        mesh: Mesh,
        algorithm: type[Any],
        **arguments: Any,
    ) -> None:
        self.sharding, self.mesh = sharding, mesh
        named = dict(parameters)
        self.trainable = {name: p for name, p in named.items() if p.requires_grad}
        self.frozen = {name: p for name, p in named.items() if not p.requires_grad}
        own = {
            name: Parameter(local_shard(p.detach())) if isinstance(p, DTensor) else p
            for name, p in self.trainable.items()
        }
        super().__init__(own.items(), algorithm, **arguments)
        if mesh.replicas is not None:  # after the hooks that add to the masters' gradients
            for name, parameter in own.items():
                mesh.replicas.watch(parameter, self.masters[name])

    def collect(self) -> None:
        """Wait for the reduced gradients, and set the masters' `grad` to FSDP's local shards."""
        self.mesh.wait_for_gradients()
        for name, parameter in self.trainable.items():
            if isinstance(parameter, DTensor):
                assert parameter.grad is not None, name
                self.masters[name].grad = local_shard(parameter.grad)

    @torch.no_grad()
    def step(self, lr: float, loss: Tensor, targets: Tensor) -> Tensor:
        """Apply one update as the base class does, then free FSDP's gradients.

        All ranks call this. lr: learning rate. loss, targets: scalars, this rank's summed loss and
        number of targets. Returns float32 [3]: mean loss, gradient norm before clipping, and 1.0 if
        the step was skipped because either is not finite, else 0.0.
        """
        self.collect()
        outcome = super().step(lr, loss, targets)
        for parameter in self.trainable.values():
            if isinstance(parameter, DTensor):
                parameter.grad = None
        return outcome

    @torch.no_grad()
    def loss_targets_norm(self, loss: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, number of targets, L2 norm of the summed gradients) over all ranks.

        All three are scalars. loss, targets: this rank's. First sums gradients that are partial
        over tensor-parallel ranks, in place. In the norm, an element on several ranks counts once.
        """
        if self.mesh.size == 1:
            return super().loss_targets_norm(loss, targets)
        if self.sharding.size > 1:
            self._sum_over_tensor_ranks()
        replicas = self.mesh.degrees["dp_replicate"]
        by_copies: dict[int, list[Tensor]] = {}  # number of ranks with the same gradient
        for name in self.trainable:
            for canonical, gradient in self._gradients(name):
                copies = self._tensor_copies(name, canonical) * replicas
                by_copies.setdefault(copies, []).append(gradient)
        squares = torch.zeros((), device=loss.device)
        for copies, gradients in by_copies.items():
            squares += get_total_norm(gradients).square() / copies
        loss, targets, squares = self.mesh.sum_scalars(loss, targets, squares)
        return loss, targets, squares.sqrt()

    def _tensor_copies(self, name: str, canonical: str) -> int:
        """Return how many tensor-parallel ranks have the same part of a parameter."""
        split = self.sharding.is_split(name)
        return self.sharding.replicas_of(canonical) if split else self.mesh.degrees["tp"]

    def _gradients(self, name: str) -> Iterable[tuple[str, Tensor]]:
        """Yield (canonical name, this rank's part of its gradient, without padding)."""
        gradient = self.masters[name].grad
        assert gradient is not None, name
        for canonical, chunk in self.sharding.chunks(name, self.trainable[name], gradient):
            yield canonical, chunk.tensor

    def _sum_over_tensor_ranks(self) -> None:
        """Sum partial gradients in place: one all-reduce for gains, one for replicated heads."""
        gains: list[Tensor] = []
        copies: list[Tensor] = []
        for name in self.trainable:
            for canonical, gradient in self._gradients(name):
                if self.sharding.has_partial_gradient(name):
                    gains.append(gradient)
                elif self.sharding.is_split(name) and self.sharding.replicas_of(canonical) > 1:
                    copies.append(gradient)
        if gains:
            unflatten(collectives.all_reduce(flatten(gains), "tp"), gains)
        if copies:
            count = max(self.sharding.replicas.values())
            head = self.sharding.rank // count
            flat = flatten(copies)
            by_head = flat.new_zeros(self.sharding.size // count, flat.numel())
            by_head[head] = flat
            unflatten(collectives.all_reduce(by_head, "tp")[head], copies)

    def after_load(self, updates: int) -> None:
        """Set the weights to masters just set or loaded, rounded. All ranks call this.

        updates: number of updates applied so far. Raises RunError if a state of the update rule is
        zero on all ranks although there were updates, or if `check_replicas` does.
        """
        super().after_load(updates)
        for name in self.algorithm.STATES:
            states = (state[name] for state in self.algorithm.state.values())
            if not self.mesh.any(not updates or any(bool(state.any()) for state in states)):
                raise RunError(
                    f"after {updates} updates the checkpoint's {name} is all zeros, so it was not "
                    "saved or not loaded: build the trainer again, or resume from another "
                    "checkpoint with --resume PATH"
                )
        self.check_replicas()

    @torch.no_grad()
    def check_replicas(self) -> None:
        """Raise RunError if copies of a weight differ between ranks, or weights from masters.

        Copies on several ranks must be equal bit by bit (compared by checksum), and each weight
        must equal its rounded master. All ranks call this. Replicated weights whose whole gradient
        each tensor-parallel rank computes by itself are not compared between those ranks, as they
        may differ in rounding.
        """
        checksums = self._checksums()
        stale = [
            name
            for name in self.shadowed
            if not self.parameters[name].equal(self.masters[name].to(self.parameters[name].dtype))
        ]
        first: dict[tuple[int, ...], tuple[int, int]] = {}
        everyone = self.mesh.ranks.on_each(lambda: (checksums, stale[:1]))
        for rank, (rank_checksums, rank_stale) in enumerate(everyone):
            if rank_stale:
                raise RunError(
                    f"rank {rank} has a {rank_stale[0]} that differs from its rounded float32 "
                    "master, so this step is not saved: build the trainer again, and resume",
                    printing_rank=0,
                )
            for place, checksum in rank_checksums.items():
                first_rank, expected = first.setdefault(place, (rank, checksum))
                if checksum != expected:
                    raise RunError(
                        f"ranks {first_rank} and {rank} hold different copies of the same weights, "
                        "so this step is not saved: resume from the newest checkpoint; if it "
                        "happens again, check the devices for faulty memory",
                        printing_rank=0,
                    )

    def _checksums(self) -> dict[tuple[int, ...], int]:
        """Return checksums of this rank's masters, by the mesh coordinates that copies share."""
        coordinates = self.mesh.coordinates
        sums: dict[tuple[int, ...], list[Tensor]] = {}
        for name, master in self.masters.items():
            for canonical, chunk in self.sharding.chunks(
                name, self.trainable[name], master.detach()
            ):
                exact = self.sharding.is_split(name) or self.sharding.has_partial_gradient(name)
                copies = self._tensor_copies(name, canonical) if exact else 1
                place = (
                    copies,
                    coordinates["pp"],
                    coordinates["dp_shard"],
                    coordinates["cp"],
                    coordinates["tp"] // copies,
                )
                bits = chunk.tensor.view(torch.int32).sum(dtype=torch.int64)
                sums.setdefault(place, []).append(bits)
        return {place: int(torch.stack(bits).sum()) for place, bits in sums.items()}

    def state_dict(self) -> dict[str, dict[str, TensorChunk]]:
        """Return section → canonical name → this rank's part of an fp32 tensor, for a checkpoint.

        The sections are "model", with the masters, and one for each state of the update rule. A
        packed parameter appears as its canonical pieces, so a checkpoint does not depend on packing
        or sharding. The parts are views, which loading writes to; call `after_load` afterwards.
        """
        sections: dict[str, dict[str, TensorChunk]] = {"model": {}}
        sections |= {name: {} for name in self.algorithm.STATES}
        for name, master in self.masters.items():
            state = {"model": master.detach(), **self.algorithm.state[master]}
            for section, chunks in sections.items():
                chunks |= self.sharding.chunks(name, self.trainable[name], state[section])
        return sections

    def frozen_state_dict(self) -> dict[str, TensorChunk]:
        """Return canonical name → this rank's part of each frozen weight, a view to load into."""
        return {
            canonical: chunk
            for name, parameter in self.frozen.items()
            for canonical, chunk in self.sharding.chunks(
                name, parameter, local_shard(parameter.detach())
            )
        }
