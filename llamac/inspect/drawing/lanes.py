"""Draw schedules as an SVG image: time runs to the right, on the same scale for all graphs."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from llamac.inspect.drawing import style
from llamac.inspect.schedule import (
    GraphSchedule,
    kind_name,
    mesh_text,
    microseconds,
    rates_text,
    result_name,
    schedules,
    summary,
)
from llamac.ir.graph import op_of
from llamac.ir.op import Op
from llamac.ir.program import Program
from llamac.passes.analysis.timing import A100, COMPUTE, Lane, Rates, Span, Timeline

# In pixels: margin of the image, width of the lanes' names, width of the longest graph.
BORDER, LABEL, LENGTH = 28.0, 76.0, 1500.0
HEIGHT, BETWEEN, HEADING, CAPTION = 30.0, 10.0, 46.0, 13.0
END = "end"  # key of the time axis among the lanes
LETTER = 6.7  # width of a letter in pixels
# (fill, border) of a transfer, and of an interval in which compute waits
HIDDEN, EXPOSED, IDLE = ("#d7efe9", "#0d9488"), ("#fbdde3", "#be3455"), ("#fdf1f3", "#f3c3cd")


def schedule_svg(
    program: Program, stage: str, region_name: str | None = None, rates: Rates = A100
) -> str:
    """Draw the schedule of each graph that communicates, one below the other, as an SVG image.

    stage: name of the last pass, for the title.
    region_name: region to draw; None draws all. rates: hardware rates to assume.
    """
    found = schedules(program, region_name, rates)
    longest = max((one.timeline.seconds for one in found), default=1.0)
    width = 2 * BORDER + LABEL + LENGTH
    title = f"{program.name} after {stage}: schedule of one rank, {mesh_text(program)}"
    body: list[str] = []
    y = BORDER + 62.0
    for one in found:
        body += _graph(one, LENGTH / longest, y)
        y += HEADING + _tops(one.timeline, LENGTH / longest)[END] + 34.0
    if not found:
        body.append(style.text(BORDER, y + 14, "no communication between ranks", "muted"))
        y += 40.0
    body += _legend(BORDER, y)
    y += 14 + BORDER
    return "\n".join(
        [
            *style.open_image(width, y, title),
            "<style>.mid { text-anchor: middle; } .tick { font-size: 10px; }</style>",
            style.text(BORDER, BORDER + 20, title, "h1"),
            style.text(BORDER, BORDER + 40, rates_text(rates), "muted"),
            *body,
            "</svg>\n",
        ]
    )


def _graph(one: GraphSchedule, scale: float, top: float) -> Iterator[str]:
    """Draw one graph: its name, a lane for compute and one per axis, and a time axis."""
    line, left = one.timeline, BORDER + LABEL
    yield style.text(BORDER, top + 14, one.title, "h2")
    yield style.text(BORDER, top + 32, summary(line), "muted")
    rows = {lane: top + HEADING + y for lane, y in _tops(line, scale).items()}
    bottom = rows.pop(END)
    for lane, y in rows.items():
        yield style.text(BORDER, y + HEIGHT / 2 + 4, lane, "name")
        yield style.rail(left, y + HEIGHT / 2, left + line.seconds * scale)
    for span in line.spans:
        if span.exposed:
            begin = left + (span.end - min(span.exposed, span.end)) * scale
            yield style.plain_rectangle(
                begin, rows[COMPUTE], max(span.exposed * scale, 1.0), HEIGHT, 3, *IDLE
            )
    for span in line.spans:
        yield from _span(span, left, rows[span.lane], scale)
    for lane, y in rows.items():
        for x, row, name in _captions(line, lane, scale):
            yield style.text(left + x, y + HEIGHT + CAPTION * (row + 1), name, "tick")
    yield from _ticks(line, left, bottom, scale)


def _tops(line: Timeline, scale: float) -> dict[Lane, float]:
    """Return the y at which each lane begins, and that of END."""
    found, y = dict[Lane, float](), 0.0
    for lane in line.lanes:
        found[lane] = y
        rows = [row + 1 for _, row, _ in _captions(line, lane, scale)]
        y += HEIGHT + BETWEEN + CAPTION * max(rows, default=0)
    return found | {END: y}


def _captions(line: Timeline, lane: Lane, scale: float) -> list[tuple[float, int, str]]:
    """Return (x, row, name) of an axis' transfers, in rows where no captions overlap."""
    ends: list[float] = []  # of each row
    found = []
    for span in line.spans:
        if span.lane == lane != COMPUTE:
            x, name = span.begin * scale, result_name(span)
            row = next((i for i, end in enumerate(ends) if end <= x), len(ends))
            ends[row:] = [x + LETTER * len(name), *ends[row + 1 :]]
            found.append((x, row, name))
    return found


def _span(span: Span, left: float, y: float, scale: float) -> Iterator[str]:
    x, width = left + span.begin * scale, max((span.end - span.begin) * scale, 1.0)
    name, kind = result_name(span), kind_name(span)
    takes = span.end - span.begin
    hover = f"{name} = {kind}: {microseconds(takes)} µs from {microseconds(span.begin)} µs"
    yield "<g>"
    if span.kind == "compute":
        yield f"<title>{escape(hover)}</title>"
        yield style.plain_rectangle(x, y, width, HEIGHT, 3, *style.BOXES[_looks(op_of(span.node))])
    else:
        exposed = min(span.exposed, takes)
        yield f"<title>{escape(f'{hover}, of which {microseconds(exposed)} µs exposed')}</title>"
        open_width = exposed * scale
        yield style.plain_rectangle(
            x, y, width, HEIGHT, 3, *(EXPOSED if exposed == takes else HIDDEN)
        )
        if 0 < exposed < takes:
            yield style.plain_rectangle(x + width - open_width, y, open_width, HEIGHT, 3, *EXPOSED)
    if span.kind == "compute" and LETTER * len(name) + 6 <= width:
        yield style.text(x + width / 2, y + HEIGHT / 2 + 4, name, "mid")
    yield "</g>"


def _looks(op: Op) -> str:
    if "attention" in op.name:
        return "attention"
    return "matmul" if op.name.startswith("linear") or op.is_loss else "plain"


def _ticks(line: Timeline, left: float, y: float, scale: float) -> Iterator[str]:
    """Yield the ticks of the time axis at round numbers, from 0, with their labels."""
    step = _round_step(90.0 / scale)
    count = int(line.seconds / step)
    for index in range(count + 1):
        x = left + index * step * scale
        label = microseconds(index * step) + (" µs" if index == 0 else "")
        yield style.text(x, y + 8, label, "muted tick")
        yield style.rail(x, y - 6, x, y - 2)


def _round_step(min_step: float) -> float:
    """Return a tick distance in seconds: 1, 2 or 5 times a power of ten."""
    power = 1e-12
    while True:
        for factor in (1, 2, 5):
            if factor * power >= min_step:
                return factor * power
        power *= 10


def _legend(x: float, y: float) -> Iterator[str]:
    entries = [
        (style.BOXES["matmul"], "matmul"),
        (style.BOXES["attention"], "attention"),
        (style.BOXES["plain"], "memory-bound"),
        (HIDDEN, "transfer under compute: hidden"),
        (EXPOSED, "transfer that compute waits for: exposed"),
        (IDLE, "compute waits"),
    ]
    for colours, label in entries:
        yield style.plain_rectangle(x, y, style.SWATCH, 14, 3, *colours)
        yield style.text(x + style.SWATCH + 8, y + 11.5, label, "legend")
        x += style.SWATCH + 8 + LETTER * len(label) + 24
