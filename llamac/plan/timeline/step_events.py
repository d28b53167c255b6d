"""Events of a step's timeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamac.passes.analysis.timing import COMPUTE
from llamac.plan.cost.data_parallel import Transfer

DATA, PIPELINE = "data", "pipeline"
"""Lanes of data-parallel transfers and of sends between stages.

The other lanes are `compute` and the axes of the mesh.
"""

Kind = Literal["forward", "backward", "bubble", "wait", "send", "gather", "reduce", "update"]


@dataclass(frozen=True)
class Event:
    """A computation, transfer or wait on one lane of a step's timeline.

    Attributes:
        kind: Pass of a region (`forward`, `backward`), optimizer's `update`, idle time (`bubble`,
            `wait`) or transfer (`send`, `gather`, `reduce`).
        name: Region that runs, or description of the transfer or wait.
        begin, end: Seconds from the start of the step.
        lane: Row of the timeline: `compute`, `DATA` or `PIPELINE`.
        layer: Index of the layer in the whole model; None outside layers.
        micro_batch: Index of the micro-batch; None unless a region runs.
        turn: Index of the forward or backward pass in the pipeline rank's order.
        nbytes: Bytes that a rank sends to another stage, if this is a `send`.
        transfer: Data-parallel transfer of a `gather` or `reduce`.
    """

    kind: Kind
    name: str
    begin: float
    end: float
    lane: str = COMPUTE
    layer: int | None = None
    micro_batch: int | None = None
    turn: int = 0
    nbytes: float = 0.0
    transfer: Transfer | None = None

    @property
    def runs(self) -> bool:
        """Return whether a region's graph runs in this event."""
        return self.kind in ("forward", "backward")

    @property
    def sent(self) -> float:
        """Return the bytes that a rank sends during the event."""
        return self.transfer.nbytes if self.transfer else self.nbytes
