"""The stretch of a step that is left out where many turns are alike."""

from __future__ import annotations

from dataclasses import dataclass

from llamac.passes.timing import COMPUTE
from llamac.plan.timeline.pipeline_order import warm_up
from llamac.plan.timeline.step import StepTimeline
from llamac.plan.timeline.step_events import Event


@dataclass(frozen=True)
class Fold:
    """Seconds between which turns are left out; both the step's end where none are.

    hidden: how many turns of each direction.
    """

    begin: float
    end: float
    hidden: int

    def shows(self, event: Event) -> bool:
        return event.end <= self.begin or event.begin >= self.end


def fold(step: StepTimeline) -> Fold:
    """Return what is left out of a step of many turns, which shows its first ones and its last."""
    events = [event for event in step.events if event.lane == COMPUTE]
    last = max(event.turn for event in events)
    ends = warm_up(step.rank, step.ranks, step.virtual, step.micro_batches) + 2
    if last + 1 <= 2 * ends + 2:
        return Fold(step.seconds, step.seconds, 0)
    first = [event.end for event in events if event.turn < ends]
    rest = [event.begin for event in events if event.turn > last - ends]
    return Fold(max(first), min(rest), (last + 1 - 2 * ends) // 2)
