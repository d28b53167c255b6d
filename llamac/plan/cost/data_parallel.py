"""Traffic among data-parallel ranks: its bytes, its seconds, and how much of them is exposed.

The one source for `Seconds.data`, for `Prediction.communication` and for the timeline's events.
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
    """A series of collectives of one kind. nbytes: bytes that a rank sends in all of them."""

    purpose: Literal["gather", "reduce"]
    collective: Literal["all_gather", "reduce_scatter", "all_reduce"]
    axis: str
    ranks: int
    stride: int
    nbytes: float
    seconds: float


@dataclass(frozen=True)
class DataParallel:
    """Transfers of one pipeline rank.

    Attributes:
        own: Parameters of the pipeline rank before sharding.
        fsdp_ranks: Ranks over which state is sharded, context-parallel ones included; copies:
            replicas of that state.
        stride: Ranks between neighbours of a data-parallel group.
        item_size: Bytes of an element of the compute dtype.
        micro_batches: Micro-batches per rank per step.
        pipelined: Under a pipeline schedule, whose stages stay gathered for a step.
        axis: Mesh axis that the traffic of unsharded parameters is counted on.
    """

    cost: DeviceCost
    own: StageParameters
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
        return self.sharding == "zero3" and self.fsdp_ranks > 1

    @property
    def ranks(self) -> int:
        """Return the number of ranks over which gradients are averaged."""
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
        found = [self._transfer("reduce", "reduce_scatter", nbytes, n, self.stride, "dp_shard")]
        if self.copies > 1:
            across = self.stride * n
            found.append(
                self._transfer(
                    "reduce", "all_reduce", nbytes / n, self.copies, across, "dp_replicate"
                )
            )
        return tuple(found)

    @cached_property
    def layer_gather(self) -> tuple[Transfer, ...]:
        return self._gather(self.own.layer) if self.fsdp else ()

    @cached_property
    def layer_reduce(self) -> tuple[Transfer, ...]:
        return self._reduce(self.own.trained.layer) if self.fsdp else ()

    @cached_property
    def rest_gather(self) -> tuple[Transfer, ...]:
        """Return the all-gather of parameters outside layers: embedding, final norm and head."""
        rest = self.own.total - self.own.layers
        return self._gather(rest) if self.fsdp and rest else ()

    @cached_property
    def rest_reduce(self) -> tuple[Transfer, ...]:
        rest = self.own.trained.total - self.own.trained.layers
        return self._reduce(rest) if self.fsdp and rest else ()

    @cached_property
    def whole(self) -> tuple[Transfer, ...]:
        """Return the transfers without FSDP: gradient reduction and ZeRO's parameter all-gather."""
        if self.fsdp or self.ranks == 1:
            return ()
        profile, total = self.cost.profile, self.own.trained.total
        shared = self.sharding in ("zero1", "zero2")
        scatter = shared and not profile.all_reduces_shards
        collective = "reduce_scatter" if scatter else "all_reduce"
        place = self.ranks, self.stride, self.axis
        nbytes = profile.wire_bytes * total
        found = [self._transfer("reduce", collective, nbytes, *place, profile.bucket_bytes)]
        if shared:
            found.append(self._transfer("gather", "all_gather", self.item_size * total, *place))
        return tuple(found)

    # -- when --------------------------------------------------------------------------------------

    def gathered(self, direction: Direction, micro_batch: int) -> tuple[Transfer, ...]:
        """Return FSDP's all-gather before a layer runs; once per step under a pipeline schedule."""
        if self.pipelined and (micro_batch or direction == "backward"):
            return ()
        return self.layer_gather

    def reduced(self, direction: Direction, micro_batch: int) -> tuple[Transfer, ...]:
        """Return FSDP's reduction after a layer's backward pass; once per step unless each_time."""
        last = micro_batch == self.micro_batches - 1
        if direction == "forward" or not (last or self.cost.profile.each_time):
            return ()
        return self.layer_reduce

    def rest_gathered(self, micro_batch: int) -> tuple[Transfer, ...]:
        """Return FSDP's all-gather before the first region of a micro-batch."""
        return () if self.pipelined and micro_batch else self.rest_gather

    def layer_wait(self, direction: Direction, micro_batch: int, runs: float) -> float:
        """Return seconds that the transfers beside a layer add to it.

        runs: seconds of the layer.
        """
        beside = (*self.gathered(direction, micro_batch), *self.reduced(direction, micro_batch))
        return self.beside(total_seconds(beside), runs)

    def beside(self, transfer: float, work: float) -> float:
        """Return the seconds that a transfer adds to the work it overlaps.

        It is the part of the transfer longer than the work, plus the slowdown of the work as they
        compete for memory bandwidth and multiprocessors (`Efficiency.contention`).
        """
        share = self.cost.device.efficiency.contention
        return max(0.0, transfer - work) + share * min(transfer, work)

    def at_end(self, backward: float, layers: int) -> float:
        """Return seconds at the end of a step.

        backward: seconds of one micro-batch's backward pass.
        """
        if self.fsdp:
            last = self.rest_reduce or self.layer_reduce
            return total_seconds(last)
        reduce = sum(one.seconds for one in self.whole if one.purpose == "reduce")
        gather = sum(one.seconds for one in self.whole if one.purpose == "gather")
        profile = self.cost.profile
        if not profile.overlapped:
            return reduce + gather
        ahead, after = (gather, 0.0) if profile.gathers_ahead else (0.0, gather)
        # The bucket that is ready last cannot be hidden.
        return max(reduce / max(1, layers), self.beside(reduce + ahead, backward)) + after

    def exposed(self, layers: Iterable[tuple[float, float]]) -> float:
        """Return seconds of a step that data-parallel transfers add.

        Args:
            layers: Seconds of each layer's forward and backward pass.
        """
        layers = list(layers)
        waits = self.at_end(sum(backward for _, backward in layers), len(layers))
        if not self.fsdp:
            return waits
        alike = Counter(layers)
        for micro_batch, times in self._micro_batches():
            waits += times * total_seconds(self.rest_gathered(micro_batch))
            for (forward, backward), count in alike.items():
                waits += times * count * self.layer_wait("forward", micro_batch, forward)
                waits += times * count * self.layer_wait("backward", micro_batch, backward)
        return waits

    def _micro_batches(self) -> Iterator[tuple[int, int]]:
        """Yield (index of one micro-batch, count) for the first, last and middle micro-batches."""
        last = self.micro_batches - 1
        yield 0, 1
        if last > 1:
            yield 1, last - 1
        if last:
            yield last, 1

    def sent(self, layers: int) -> dict[str, float]:
        """Return bytes that a rank sends per step, by mesh axis. layers: number on the rank."""
        found: dict[str, float] = {}

        def add(transfers: Iterable[Transfer], times: float) -> None:
            for one in transfers:
                found[one.axis] = found.get(one.axis, 0.0) + times * one.nbytes

        add(self.whole, 1)
        for micro_batch, times in self._micro_batches():
            for direction in ("forward", "backward"):
                add(self.gathered(direction, micro_batch), times * layers)
                add(self.reduced(direction, micro_batch), times * layers)
            add(self.rest_gathered(micro_batch), times)
        add(self.rest_reduce, 1)
        return found


def total_seconds(transfers: Iterable[Transfer]) -> float:
    return sum(one.seconds for one in transfers)
