"""What fills a step's time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamac.passes.timing import COMPUTE

DATA, PIPELINE = "data", "pipeline"
"""Lanes of what data ranks and pipeline ranks pass on; the others are `compute` and mesh axes."""

Kind = Literal["forward", "backward", "bubble", "wait", "send", "gather", "reduce", "update"]


@dataclass(frozen=True)
class Act:
    """begin, end: seconds. name: the region that runs, or what is waited for; that is an act of its
    own, on its lane. layer: its number in the whole model. turn: of the pipeline's order, in which
    it falls. nbytes: that a rank sends."""

    kind: Kind
    name: str
    begin: float
    end: float
    lane: str = COMPUTE
    layer: int | None = None
    micro_batch: int | None = None
    turn: int = 0
    nbytes: float = 0.0

    @property
    def runs(self) -> bool:
        """Is it a region's graph that runs?"""
        return self.kind in ("forward", "backward")
