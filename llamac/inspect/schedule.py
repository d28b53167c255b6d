"""Estimated schedules of graphs: when each op runs on the compute stream and on each mesh axis.

Communication inside an op is not shown, such as the few numbers per token that the
vocabulary-parallel loss exchanges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from llamac.ir.graph import op_of, ops_in, results
from llamac.ir.program import Program
from llamac.ir.values import layer_count
from llamac.look.text_table import Part, TextTable, hanging
from llamac.passes.analysis.timing import (
    A100,
    COMPUTE,
    Rates,
    Span,
    Timeline,
    TimingModel,
    timeline,
)

LANE_WIDTH = 96  # characters of a lane, at most
BUSY, HIDDEN, EXPOSED, IDLE = "█", "─", "▒", " "
MARGIN = 9  # characters of a lane's name


def rates_text(rates: Rates) -> str:
    """Describe in one line the hardware rates on which an estimated schedule is based."""
    return (
        f"an estimate, not a measurement: {rates.flops / 1e12:.3g} TFLOP/s, "
        f"{rates.memory / 1e12:.2g} TB/s of memory, {rates.wire / 1e9:.3g} GB/s between ranks "
        f"({rates.device}), no latencies"
    )


@dataclass(frozen=True)
class GraphSchedule:
    """Estimated schedule of one run of a graph.

    graph: region and direction, such as `block.backward`. count: runs per micro-batch.
    timeline: the interval in which each op runs.
    """

    graph: str
    count: int
    timeline: Timeline

    @property
    def title(self) -> str:
        """Name and number of runs: `block.backward × 80`."""
        return f"{self.graph} × {self.count}" if self.count > 1 else self.graph

    def lines(self, width: int) -> Iterator[Text]:
        """Yield a heading, a bar for compute and for each mesh axis, and a table of collectives.

        width: greatest length of a line, in characters.
        """
        line = self.timeline
        yield from hanging(f"{self.title}: {summary(line)}", width, "title")
        yield from _lanes(line, min(LANE_WIDTH, width - MARGIN - 4))
        yield from TextTable("", _HEAD, [*map(_row, collectives(line))], "<<>>>>").lines(width)


def schedules(
    program: Program, region_name: str | None = None, rates: Rates = A100
) -> list[GraphSchedule]:
    """Return the estimated schedule of each graph that communicates, by region, forward first.

    region_name: region to schedule; None schedules all. rates: hardware rates to assume.
    """
    timing, found = TimingModel(program.symbols, program.mesh, rates), []
    for region in program.regions.values():
        count = layer_count(region.name, program.layers)
        for direction, module in (("forward", region.forward), ("backward", region.backward)):
            if module is not None and region_name in (None, region.name):
                line = timeline(ops_in(module.graph), timing)
                if line.communication:
                    found.append(GraphSchedule(f"{region.name}.{direction}", count, line))
    return found


def schedule_parts(
    program: Program, stage: str, region_name: str | None = None, rates: Rates = A100
) -> Iterator[Part]:
    """Yield a program's schedule as text and charts; each graph is drawn to its own time scale.

    Graphs without communication are left out.

    stage: name of the last pass, for the heading. region_name: region to show; None shows all.
    rates: hardware rates to assume.
    """
    yield f"{program.name} after {stage}: schedule of one rank; {mesh_text(program)}"
    yield f"  {rates_text(rates)}"
    yield (
        f"  compute {BUSY} runs; an axis {HIDDEN} transfers under compute, "
        f"{EXPOSED} while compute waits for it"
    )
    found = schedules(program, region_name, rates)
    yield from found
    if not found:
        yield "\n  no communication between ranks"


def schedule_json(
    program: Program, stage: str, region_name: str | None = None, rates: Rates = A100
) -> dict[str, Any]:
    """Return the schedule of each graph that communicates as JSON values, with its collectives.

    Times are in seconds, those of a collective from the graph's start.

    stage: name of the last pass. region_name: region to show; None shows all. rates: hardware rates
    to assume.
    """
    return {
        "program": program.name,
        "stage": stage,
        "mesh": dict(program.mesh),
        "device": rates.device,
        "graphs": [
            {
                "graph": one.graph,
                "count": one.count,
                "seconds": one.timeline.seconds,
                "communication_seconds": one.timeline.communication,
                "exposed_seconds": one.timeline.exposed,
                "collectives": [
                    {
                        "value": result_name(span),
                        "kind": kind_name(span),
                        "axis": span.lane,
                        "begin": span.begin,
                        "end": span.end,
                        "exposed": min(span.exposed, span.end - span.begin),
                    }
                    for span in collectives(one.timeline)
                ],
            }
            for one in schedules(program, region_name, rates)
        ],
    }


def mesh_text(program: Program) -> str:
    """Format the sizes of a program's mesh axes, `tp = 8 · cp = 2`; `one rank` without any."""
    axes = " · ".join(f"{axis} = {size}" for axis, size in program.mesh.items())
    return axes or "one rank"


def summary(line: Timeline) -> str:
    """Format a graph's total, communication, hidden and exposed time in one line, for a heading.

    `3355 µs; 627 µs of transfers, 549 hidden (88 %), 78 exposed`
    """
    hidden = line.communication - line.exposed
    share = f" ({100 * hidden / line.communication:.0f} %)" if line.communication else ""
    return (
        f"{microseconds(line.seconds)} µs; {microseconds(line.communication)} µs of transfers, "
        f"{microseconds(hidden)} hidden{share}, {microseconds(line.exposed)} exposed"
    )


def microseconds(seconds: float) -> str:
    """Format seconds as a number of microseconds, without the unit.

    Below 100 µs it has three significant digits, otherwise it is whole.
    """
    micro = seconds * 1e6
    return f"{micro:,.0f}" if micro >= 100 else f"{micro:.3g}"


def collectives(line: Timeline) -> list[Span]:
    """Return the spans of a graph's collectives, in program order."""
    return [span for span in line.spans if span.kind == "collective"]


def result_name(span: Span) -> str:
    """Return the name of the first used result of a span's op, without `_started`: `d_w2`."""
    value = next((value for value in results(span.node) if value is not None), span.node)
    return value.name.removesuffix("_started")


def kind_name(span: Span) -> str:
    """Return the name of a span's op; an asynchronous collective's lacks `_start`: `all_gather`."""
    return op_of(span.node).name.removesuffix("_start")


_HEAD = ("transfer", "axis", "begins µs", "takes", "hidden", "exposed")


def _row(span: Span) -> tuple[str, ...]:
    takes = span.end - span.begin
    exposed = min(span.exposed, takes)
    return (
        f"{result_name(span)} ({kind_name(span)})",
        span.lane,
        microseconds(span.begin),
        microseconds(takes),
        microseconds(takes - exposed),
        microseconds(exposed),
    )


def _lanes(line: Timeline, width: int) -> Iterator[Text]:
    step = line.seconds / width
    for lane in line.lanes:
        marks = [IDLE] * width
        for span in line.spans:
            if span.lane == lane:
                first, last = (min(width, round(at / step)) for at in (span.begin, span.end))
                for at in range(min(first, width - 1), min(max(last, first + 1), width)):
                    late = (at + 0.5) * step >= span.end - span.exposed and span.exposed
                    marks[at] = BUSY if lane == COMPUTE else EXPOSED if late else HIDDEN
        drawn = Text(f"  {lane:<{MARGIN}}│{''.join(marks)}│")
        drawn.highlight_regex(f"{EXPOSED}+", "removed")
        drawn.highlight_regex(f"{HIDDEN}+", "again")
        yield drawn
