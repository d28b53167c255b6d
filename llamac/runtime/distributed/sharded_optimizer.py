"""Sharded optimizer: each rank updates its own part with the global gradient norm."""

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
from .param_sharding import ParamSharding, local
from .replicas import flatten, unflatten


class ShardedOptimizer(MixedPrecisionOptimizer):
    """`MixedPrecisionOptimizer` of this rank's shards.

    FSDP's parameters are fp32 shards and their own masters. The gradients of all parameters are
    reduced over data and context ranks in the backward pass, by FSDP or by `Replicas`. Once per
    step, tensor-parallel ranks all-reduce gradients that are partial sums: of norm gains under
    sequence parallelism, and of replicated key heads (Megatron-LM's finalize_model_grads). Frozen
    parameters (no `requires_grad`) have no master, gradient or state, and are not in the norm.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        sharding: ParamSharding,
        mesh: Mesh,
        algorithm: type[Any],
        **given: Any,
    ) -> None:
        self.sharding, self.mesh = sharding, mesh
        named = dict(parameters)
        self.trainable = {name: p for name, p in named.items() if p.requires_grad}
        self.frozen = {name: p for name, p in named.items() if not p.requires_grad}
        own = {
            name: Parameter(local(p.detach())) if isinstance(p, DTensor) else p
            for name, p in self.trainable.items()
        }
        super().__init__(own.items(), algorithm, **given)
        if mesh.replicas is not None:  # after the hooks that add to the masters' gradients
            for name, parameter in own.items():
                mesh.replicas.watch(parameter, self.masters[name])

    def collect(self) -> None:
        """Collect the gradients that are reduced over data and context ranks."""
        self.mesh.wait_for_gradients()
        for name, parameter in self.trainable.items():
            if isinstance(parameter, DTensor):
                assert parameter.grad is not None, name
                self.masters[name].grad = local(parameter.grad)

    @torch.no_grad()
    def step(self, lr: float, loss: Tensor, targets: Tensor) -> Tensor:
        self.collect()
        outcome = super().step(lr, loss, targets)
        for parameter in self.trainable.values():
            if isinstance(parameter, DTensor):
                parameter.grad = None
        return outcome

    @torch.no_grad()
    def loss_targets_norm(self, loss: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, targets and L2 norm of the gradients, summed over all ranks."""
        if self.mesh.size == 1:
            return super().loss_targets_norm(loss, targets)
        if self.sharding.size > 1:
            self._add_over_tensor_ranks()
        replicas = self.mesh.degrees["dp_replicate"]
        by_holders: dict[int, list[Tensor]] = {}  # number of ranks with the same gradient
        for name in self.trainable:
            for canonical, gradient in self._gradients(name):
                holders = self._holders(name, canonical)
                by_holders.setdefault(holders * replicas, []).append(gradient)
        squares = torch.zeros((), device=loss.device)
        for holders, gradients in by_holders.items():
            squares += get_total_norm(gradients).square() / holders
        loss, targets, squares = self.mesh.add_up(loss, targets, squares)
        return loss, targets, squares.sqrt()

    def _holders(self, name: str, canonical: str) -> int:
        """Return how many tensor-parallel ranks hold the same part of a parameter."""
        split = self.sharding.is_split(name)
        return self.sharding.replicas_of(canonical) if split else self.mesh.degrees["tp"]

    def _gradients(self, name: str) -> Iterable[tuple[str, Tensor]]:
        """Yield (canonical name, this rank's part of its gradient), without padding."""
        gradient = self.masters[name].grad
        assert gradient is not None, name
        for canonical, chunk in self.sharding.chunks(name, self.trainable[name], gradient):
            yield canonical, chunk.tensor

    def _add_over_tensor_ranks(self) -> None:
        """Reduce partial gradients: one all-reduce for all gains, one for all replicated heads."""
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
            mine = self.sharding.rank // count
            flat = flatten(copies)
            by_head = flat.new_zeros(self.sharding.size // count, flat.numel())
            by_head[mine] = flat
            unflatten(collectives.all_reduce(by_head, "tp")[mine], copies)

    def after_load(self, updates: int) -> None:
        """Synchronise with masters and states just set or loaded, after `updates` applied updates.

        Raises RunError if a state of the update rule was not loaded, and as `check_replicas` does.
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
        """Raise RunError unless replicas agree between ranks, and weights with their masters.

        Copies on several ranks must be equal bit by bit, and weights equal to rounded masters. All
        ranks call this. Weights whose gradient each tensor-parallel rank computes by itself are
        excluded, as they may differ in rounding.
        """
        own = self._bits()
        stale = [
            name
            for name in self.shadowed
            if not self.parameters[name].equal(self.masters[name].to(self.parameters[name].dtype))
        ]
        first: dict[tuple[int, ...], tuple[int, int]] = {}
        for rank, (theirs, wrong) in enumerate(self.mesh.ranks.on_each(lambda: (own, stale[:1]))):
            if wrong:
                raise RunError(
                    f"rank {rank} has a {wrong[0]} that differs from its rounded float32 master, "
                    "so this step is not saved: build the trainer again, and resume",
                    teller=0,
                )
            for place, bits in theirs.items():
                before, known = first.setdefault(place, (rank, bits))
                if known != bits:
                    raise RunError(
                        f"ranks {before} and {rank} hold different copies of the same weights, so "
                        "this step is not saved: resume from the newest checkpoint; if it happens "
                        "again, check the devices for faulty memory",
                        teller=0,
                    )

    def _bits(self) -> dict[tuple[int, ...], int]:
        """Return checksums of this rank's weights by the mesh coordinates that replicas share."""
        at = self.mesh.coordinates
        found: dict[tuple[int, ...], list[Tensor]] = {}
        for name, master in self.masters.items():
            for canonical, chunk in self.sharding.chunks(
                name, self.trainable[name], master.detach()
            ):
                exact = self.sharding.is_split(name) or self.sharding.has_partial_gradient(name)
                holders = self._holders(name, canonical) if exact else 1
                place = (holders, at["pp"], at["dp_shard"], at["cp"], at["tp"] // holders)
                bits = chunk.tensor.view(torch.int32).sum(dtype=torch.int64)
                found.setdefault(place, []).append(bits)
        return {place: int(torch.stack(bits).sum()) for place, bits in found.items()}

    def state_dict(self) -> dict[str, dict[str, TensorChunk]]:
        """Return this rank's tensors for a checkpoint, fp32, by canonical name.

        There is a section for the masters ("model") and one for each state of the update rule. A
        packed parameter appears as its canonical row slices, so a checkpoint does not depend on how
        this trainer packs or shards. Loading writes through the views; then call `after_load`.
        """
        sections: dict[str, dict[str, TensorChunk]] = {"model": {}}
        sections |= {name: {} for name in self.algorithm.STATES}
        for name, master in self.masters.items():
            state = {"model": master.detach(), **self.algorithm.state[master]}
            for section, chunks in sections.items():
                chunks |= self.sharding.chunks(name, self.trainable[name], state[section])
        return sections

    def frozen_state_dict(self) -> dict[str, TensorChunk]:
        """Return this rank's parts of the frozen weights, by canonical name, to load into."""
        return {
            canonical: chunk
            for name, parameter in self.frozen.items()
            for canonical, chunk in self.sharding.chunks(name, parameter, local(parameter.detach()))
        }
