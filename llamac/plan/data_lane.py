"""What data ranks pass each other while a rank's step goes by, and what it waits for of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamac.passes.footprint import held
from llamac.plan.acts import DATA, Act, Kind
from llamac.plan.order import Turn

if TYPE_CHECKING:
    from llamac.plan.step import Step


class DataLane:
    """Transfers one after the other, under the layers beside them. The waits are as long in all as
    the prediction says; where in the step they fall is what FSDP's order of transfers gives."""

    def __init__(self, step: Step, order: Sequence[Turn]) -> None:
        self.step, model = step, step.model
        setting, clock = model.setting, model.clock
        size = 4 if model.spec.precision.compute == "fp32" else 2
        first, last = step.rank == 0, step.rank == step.ranks - 1
        layers = sum(layer is not None for c in range(step.virtual) for _, layer in step.chunk(c))
        own = held(step.program, layers, first, last)
        self.fsdp = model.sharding == "zero3" and model.sharers > 1
        ranks = model.sharers if self.fsdp else model.data

        wire = setting.style.gradient_bytes * (1 if model.sharding != "none" else 2)
        share = (ranks - 1) / ranks
        self.sent = {"gather": size * own.layer * share, "reduce": wire * own.layer * share}
        self.sent["rest"] = size * (own.total - own.layers) * share

        def seconds(key: str) -> float:
            return clock.collective(self.sent[key], ranks, model.tp) if ranks > 1 else 0.0

        overlapped = self.fsdp or setting.style.overlapped
        self.gather = seconds("gather") if self.fsdp else 0.0
        self.rest = seconds("rest") if self.fsdp else 0.0
        self.reduce = seconds("reduce") if overlapped else 0.0
        copies = model.copies
        if self.fsdp and copies > 1:  # then the shards are summed over the copies of the model
            shard = 2 * wire * own.layer / ranks * (copies - 1) / copies
            self.reduce += clock.collective(shard, copies, model.tp * ranks)
        self.free = 0.0
        self.scale = 1.0
        raw = sum(self.wait(turn, name) for turn in order for name, _ in step.chunk(turn.chunk))
        predicted = step.prediction.seconds.data
        at_end = self.reduce if self.fsdp else predicted
        self.scale = predicted / (raw + at_end) if raw + at_end else 0.0
        self.last = at_end * self.scale

    def wait(self, turn: Turn, region: str) -> float:
        """Seconds before a region can run: what of the transfers beside it nothing hides,
        and what they take from it."""
        if not self.fsdp or (region, turn.direction) not in self.step.played:
            return 0.0
        runs = self.step.played[region, turn.direction].seconds
        moves = self.gathered(turn, region)
        if region in ("embed", "head"):
            return moves * self.scale
        moves += self.reduced(turn, region)
        share = self.step.model.setting.device.efficiency.contention
        return (max(0.0, moves - runs) + share * min(moves, runs)) * self.scale

    def gathered(self, turn: Turn, region: str) -> float:
        """Seconds in which a region's parameters arrive; under a pipeline schedule once a step."""
        if self.step.ranks > 1 and (turn.micro_batch or turn.direction == "backward"):
            return 0.0
        if region in ("embed", "head"):
            first = self.step.chunk(0)[0][0] if self.step.rank == 0 else "head"
            return self.rest if turn.direction == "forward" and region == first else 0.0
        return self.gather

    def reduced(self, turn: Turn, region: str) -> float:
        """Seconds in which the gradients of a layer are summed up, after its backward pass."""
        if turn.direction == "forward" or region in ("embed", "head"):
            return 0.0
        last = turn.micro_batch == self.step.micro_batches - 1
        return self.reduce if last or self.step.model.setting.style.each_time else 0.0

    def act(self, kind: Kind, name: str, begin: float, seconds: float, turn: int) -> Act:
        """A transfer in this time, or what of it is left once those before it are done."""
        end = begin + seconds
        begin = max(begin, self.free)
        self.free = max(begin, end)
        sent = self.sent[kind if name.startswith("layer") or kind == "reduce" else "rest"]
        return Act(kind, name, begin, self.free, DATA, turn=turn, nbytes=sent)
