"""Traffic of data-parallel ranks: bytes, seconds, and exposed seconds.

`Seconds.data`, `Prediction.communication` and the timeline's events are derived from it.
FSDP (`zero3`) gathers each layer's parameters before it runs and reduces its gradients after its
backward pass (FSDP2). Otherwise gradients are reduced in buckets, under the last backward pass or
after it, and ZeRO-1 and ZeRO-2 gather the updated parameters at the end of the step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Literal

from llamac.passes.analysis.peak_memory import Sharding, StageParameters
from llamac.plan.cost.device_cost import DeviceCost

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Transfer:
    """A series of equal collectives over one group of ranks.

    Attributes:
        purpose: `gather` of parameters, or `reduce` of gradients.
        collective: Collective that each of them runs.
        axis: Mesh axis of the group. ranks: Size of the group.
        stride: Difference of the global ranks of two neighbours of the group.
        nbytes: Bytes that a rank sends in the whole series. seconds: Time of the whole series.
    """

    purpose: Literal["gather", "reduce"]
    collective: Literal["all_gather", "reduce_scatter", "all_reduce"]
    axis: str
    ranks: int
    stride: int
    nbytes: float
    seconds: float


@dataclass(frozen=True)
class DataParallel:
    """Data-parallel transfers of one pipeline rank in a step.

    Attributes:
        cost: Timing model of the device and framework.
        parameters: Parameter counts of the pipeline rank, before data-parallel sharding.
        sharding: State that is sharded over `fsdp_ranks`.
        fsdp_ranks: Ranks over which state is sharded, including context-parallel ones.
        copies: Replicas of that state.
        stride: Difference of the global ranks of two neighbours of a data-parallel group.
        item_size: Bytes of an element of the compute dtype.
        micro_batches: Micro-batches per data-parallel rank and step.
        pipelined: Whether a pipeline schedule is used, which gathers parameters once per step.
        axis: Mesh axis to which the traffic of unsharded parameters is attributed.
    """

    cost: DeviceCost
    parameters: StageParameters
    sharding: Sharding
    fsdp_ranks: int
    copies: int
    stride: int
    item_size: int
    micro_batches: int
    pipelined: bool
    axis: str = "dp_shard"

    @property
    def fsdp(self) -> bool:
        """Return whether parameters are sharded (FSDP)."""
        return self.sharding == "zero3" and self.fsdp_ranks > 1

    @property
    def ranks(self) -> int:
        """Return the number of ranks over which gradients are averaged: shards times replicas."""
        return self.fsdp_ranks * self.copies

    # -- one collective ----------------------------------------------------------------------------

    def _transfer(
        self,
        purpose: Literal["gather", "reduce"],
        collective: Literal["all_gather", "reduce_scatter", "all_reduce"],
        nbytes: float,
        ranks: int,
        stride: int,
        axis: str,
        bucket: float | None = None,
    ) -> Transfer:
        rounds = 2 if collective == "all_reduce" else 1
        sent = rounds * nbytes * (ranks - 1) / ranks
        count = max(1, ceil(nbytes / bucket)) if bucket else 1
        seconds = count * self.cost.collective(sent / count, ranks, stride, rounds)
        return Transfer(purpose, collective, axis, ranks, stride, sent, seconds)

    def _gather(self, parameters: float) -> tuple[Transfer, ...]:
        """Return the traffic of FSDP's all-gather of a number of parameters."""
        nbytes = self.item_size * parameters
        return (
            self._transfer(
                "gather", "all_gather", nbytes, self.fsdp_ranks, self.stride, "dp_shard"
            ),
        )

    def _reduce(self, parameters: float) -> tuple[Transfer, ...]:
        """Return the traffic of FSDP's gradient reduction: among shards, then replicas (HSDP)."""
        n, nbytes = self.fsdp_ranks, self.cost.profile.wire_bytes * parameters
        transfers = [self._transfer("reduce", "reduce_scatter", nbytes, n, self.stride, "dp_shard")]
        if self.copies > 1:
            across = self.stride * n
            transfers.append(
                self._transfer(
                    "reduce", "all_reduce", nbytes / n, self.copies, across, "dp_replicate"
                )
            )
        return tuple(transfers)

    @cached_property
    def layer_gather(self) -> tuple[Transfer, ...]:
        """Return FSDP's all-gather of one layer's parameters; () without FSDP."""
        return self._gather(self.parameters.layer) if self.fsdp else ()

    @cached_property
    def layer_reduce(self) -> tuple[Transfer, ...]:
        """Return FSDP's reduction of one layer's gradients; () without FSDP.

        It is a reduce-scatter among shards, then an all-reduce among replicas, if any (HSDP).
        """
        return self._reduce(self.parameters.trained.layer) if self.fsdp else ()

    @cached_property
    def non_layer_gather(self) -> tuple[Transfer, ...]:
        """Return FSDP's all-gather of the embedding, final norm and head.

        () without FSDP, or if this rank has none of these.
        """
        rest = self.parameters.total - self.parameters.layers
        return self._gather(rest) if self.fsdp and rest else ()

    @cached_property
    def non_layer_reduce(self) -> tuple[Transfer, ...]:
        """Return FSDP's reduction of the gradients of embedding, final norm and head.

        () without FSDP, or if this rank trains none of these.
        """
        rest = self.parameters.trained.total - self.parameters.trained.layers
        return self._reduce(rest) if self.fsdp and rest else ()

    @cached_property
    def step_transfers(self) -> tuple[Transfer, ...]:
        """Return the transfers of a step without FSDP; () with FSDP or for a single rank.

        They are the reduction of all gradients, then ZeRO-1 and 2's gather of updated parameters.
        """
        if self.fsdp or self.ranks == 1:
            return ()
        profile, total = self.cost.profile, self.parameters.trained.total
        shared = self.sharding in ("zero1", "zero2")
        scatter = shared and not profile.all_reduces_shards
        collective = "reduce_scatter" if scatter else "all_reduce"
        place = self.ranks, self.stride, self.axis
        nbytes = profile.wire_bytes * total
        transfers = [self._transfer("reduce", collective, nbytes, *place, profile.bucket_bytes)]
        if shared:
            transfers.append(self._transfer("gather", "all_gather", self.item_size * total, *place))
        return tuple(transfers)

    # -- when --------------------------------------------------------------------------------------

    def gather_before_layer(self, direction: Direction, micro_batch: int) -> tuple[Transfer, ...]:
        """Return FSDP's all-gather before a layer runs; () if the layer is gathered already.

        Under a pipeline schedule, only the first forward pass of a step gathers.

        micro_batch: index of the micro-batch in the step.
        """
        if self.pipelined and (micro_batch or direction == "backward"):
            return ()
        return self.layer_gather

    def reduce_after_layer(self, direction: Direction, micro_batch: int) -> tuple[Transfer, ...]:
        """Return FSDP's reduction after a layer has run in a direction; () if there is none.

        Only backward passes reduce, and only the last micro-batch's, unless the framework reduces
        in each. micro_batch: index of the micro-batch in the step.
        """
        last = micro_batch == self.micro_batches - 1
        if direction == "forward" or not (last or self.cost.profile.reduces_each_micro_batch):
            return ()
        return self.layer_reduce

    def gather_before_micro_batch(self, micro_batch: int) -> tuple[Transfer, ...]:
        """Return FSDP's all-gather of parameters outside layers before a micro-batch; else ().

        Under a pipeline schedule, only the first micro-batch gathers.

        micro_batch: index of the micro-batch in the step.
        """
        return () if self.pipelined and micro_batch else self.non_layer_gather

    def layer_wait(self, direction: Direction, micro_batch: int, runs: float) -> float:
        """Return the seconds that FSDP's transfers add to a layer's pass, which they overlap.

        micro_batch: index of the micro-batch in the step. runs: seconds of the pass by itself.
        """
        transfers = (
            *self.gather_before_layer(direction, micro_batch),
            *self.reduce_after_layer(direction, micro_batch),
        )
        return self.overlap_seconds(total_seconds(transfers), runs)

    def overlap_seconds(self, transfer: float, work: float) -> float:
        """Return the seconds that a transfer adds to work that it overlaps.

        These are the excess of the transfer over the work, and the slowdown of the work by
        competition for memory bandwidth and multiprocessors (`Efficiency.contention`).
        transfer, work: seconds.
        """
        share = self.cost.device.efficiency.contention
        return max(0.0, transfer - work) + share * min(transfer, work)

    def end_seconds(self, backward: float, layers: int) -> float:
        """Return the seconds that data-parallel transfers add after the last region of a step.

        backward: seconds of one micro-batch's backward pass, which may overlap reductions.
        layers: number of layers on the rank.
        """
        if self.fsdp:
            last = self.non_layer_reduce or self.layer_reduce
            return total_seconds(last)
        reduce = sum(
            transfer.seconds for transfer in self.step_transfers if transfer.purpose == "reduce"
        )
        gather = sum(
            transfer.seconds for transfer in self.step_transfers if transfer.purpose == "gather"
        )
        profile = self.cost.profile
        if not profile.overlapped:
            return reduce + gather
        hidden_gather, exposed_gather = (gather, 0.0) if profile.gathers_ahead else (0.0, gather)
        # The bucket that is ready last cannot be hidden.
        return (
            max(reduce / max(1, layers), self.overlap_seconds(reduce + hidden_gather, backward))
            + exposed_gather
        )

    def exposed(self, layers: Iterable[tuple[float, float]]) -> float:
        """Return the seconds that data-parallel transfers add to a step.

        layers: (forward, backward) seconds of one micro-batch in each layer on the rank.
        """
        layers = list(layers)
        waits = self.end_seconds(sum(backward for _, backward in layers), len(layers))
        if not self.fsdp:
            return waits
        counts = Counter(layers)
        for micro_batch, times in self._micro_batches():
            waits += times * total_seconds(self.gather_before_micro_batch(micro_batch))
            for (forward, backward), count in counts.items():
                waits += times * count * self.layer_wait("forward", micro_batch, forward)
                waits += times * count * self.layer_wait("backward", micro_batch, backward)
        return waits

    def _micro_batches(self) -> Iterator[tuple[int, int]]:
        """Yield (index, count) of a representative of the first, middle and last micro-batches."""
        last = self.micro_batches - 1
        yield 0, 1
        if last > 1:
            yield 1, last - 1
        if last:
            yield last, 1

    def sent(self, layers: int) -> dict[str, float]:
        """Return the bytes that a rank sends per step in data-parallel transfers, by mesh axis.

        layers: number of layers on the rank.
        """
        nbytes: dict[str, float] = {}

        def add(transfers: Iterable[Transfer], times: float) -> None:
            for transfer in transfers:
                nbytes[transfer.axis] = nbytes.get(transfer.axis, 0.0) + times * transfer.nbytes

        add(self.step_transfers, 1)
        for micro_batch, times in self._micro_batches():
            for direction in ("forward", "backward"):
                add(self.gather_before_layer(direction, micro_batch), times * layers)
                add(self.reduce_after_layer(direction, micro_batch), times * layers)
            add(self.gather_before_micro_batch(micro_batch), times)
        add(self.non_layer_reduce, 1)
        return nbytes


def total_seconds(transfers: Iterable[Transfer]) -> float:
    """Return the sum of the transfers' seconds."""
    return sum(transfer.seconds for transfer in transfers)
