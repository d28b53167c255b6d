"""Omit repeated micro-batches from the picture of a step."""

from __future__ import annotations

from dataclasses import dataclass

from llamac.passes.analysis.timing import COMPUTE
from llamac.plan.timeline.pipeline_order import warm_up
from llamac.plan.timeline.step import StepTimeline
from llamac.plan.timeline.step_events import Event


@dataclass(frozen=True)
class Fold:
    """Interval that the picture of a step omits, since its passes repeat.

    begin, end: its bounds in seconds from the step's start; both are the step's end if nothing is
    omitted. hidden: number of omitted forward passes, and as many backward passes.
    """

    begin: float
    end: float
    hidden: int

    def shows(self, event: Event) -> bool:
        """Return whether an event is outside the omitted interval."""
        return event.end <= self.begin or event.begin >= self.end


def fold(step: StepTimeline) -> Fold:
    """Return the part of a step to omit: passes that repeat between warm-up and cool-down.

    Too short steps are shown whole.
    """
    events = [event for event in step.events if event.lane == COMPUTE]
    last = max(event.turn for event in events)
    ends = warm_up(step.rank, step.ranks, step.virtual, step.micro_batches) + 2
    if last + 1 <= 2 * ends + 2:
        return Fold(step.seconds, step.seconds, 0)
    first = [event.end for event in events if event.turn < ends]
    rest = [event.begin for event in events if event.turn > last - ends]
    return Fold(max(first), min(rest), (last + 1 - 2 * ends) // 2)
