"""Draw memory over one step: constant state, and activations as they are allocated and freed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamac.ir.program import Program
from llamac.plan.cost.step_model import StepModel
from llamac.plan.prediction import Prediction
from llamac.plan.render.canvas import Area, Drawing, Label, Point, Polyline
from llamac.plan.render.prediction_tables import MEMORY_LABELS, gigabytes
from llamac.plan.timeline.fold import Fold, fold
from llamac.plan.timeline.memory_timeline import Moment, moments
from llamac.plan.timeline.step import StepTimeline
from llamac.plan.timeline.step_events import Event

WIDTH, HEIGHT = 1160.0, 560.0
LEFT, TOP, RIGHT, BOTTOM = 70.0, 104.0, 300.0, 96.0  # around the plot
PLOT = WIDTH - LEFT - RIGHT
STRIP = 16.0  # of what runs when, below the plot
FOLD = 26.0  # where turns are left out
MAX_HEADROOM = 3.0  # the device's memory is drawn if it is at most this many times the peak

CONSTANT = {  # constant over the step, from the bottom
    "overhead": "#c9c5ba",
    "optimizer": "#7f8fa9",
    "parameters": "#5b7bb4",
    "gradients": "#a8bfe0",
    "communication": "#8fd0c5",
}
VARYING = {  # varying over the step, on top
    "saved": ("activations kept", "#f2c14e"),
    "working": ("of the layer that runs", "#e8825a"),
    "logits": ("logits", "#be3455"),
}
RUNS = {"forward": "#dbe7fb", "backward": "#fbdde3", "update": "#e8defa"}
INK, MUTED, RAIL, FULL = "#1f2937", "#5b6472", "#e5e2d9", "#b91c1c"


def memory_picture(prediction: Prediction, program: Program) -> Drawing:
    """Draw memory over one step on the pipeline rank with the highest peak.

    program: the prediction's compiled spec.
    """
    ranks = StepModel(prediction.setting, program).full_ranks
    curves = [
        (step := StepTimeline(prediction, program, rank), list(moments(step))) for rank in ranks
    ]
    step, curve = max(curves, key=lambda item: max(moment.total for moment in item[1]))
    return _Picture(step, curve).draw()


@dataclass(frozen=True)
class _Time:
    """Map seconds to the axis."""

    fold: Fold
    whole: float

    def x(self, seconds: float) -> float:
        gone, hidden = self.fold.end - self.fold.begin, self.fold.hidden
        width, shown = PLOT - (FOLD if hidden else 0.0), self.whole - gone
        if seconds <= self.fold.begin:
            return LEFT + width * seconds / shown
        within = FOLD * (min(seconds, self.fold.end) - self.fold.begin) / gone if hidden else 0.0
        after = max(0.0, seconds - self.fold.end)
        return LEFT + within + width * (self.fold.begin + after) / shown


class _Picture:
    def __init__(self, step: StepTimeline, curve: Sequence[Moment]) -> None:
        self.step, self.curve, self.prediction = step, curve, step.prediction
        self.time = _Time(fold(step), step.seconds)
        self.fold = self.time.fold
        self.constant = {
            key: nbytes for key in CONSTANT if (nbytes := getattr(self.prediction.memory, key)) > 0
        }
        self.worst = max(curve, key=lambda moment: moment.total)
        self.peak = sum(self.constant.values()) + self.worst.total
        self.capacity = float(self.prediction.setting.device.memory)
        self.shows_limit = self.capacity <= MAX_HEADROOM * self.peak
        self.top = max(self.peak, self.capacity if self.shows_limit else 0.0) * 1.08

    def draw(self) -> Drawing:
        spec = self.prediction.setting.spec
        drawing = Drawing(WIDTH, HEIGHT, f"{spec.name}: memory of one rank over a step")
        drawing.shapes.extend(
            [
                *self._heading(drawing.title),
                *self._levels(),
                *self._areas(),
                *self._fold(),
                *self._limit(),
                *self._strip(),
                *self._ticks(),
                *self._legend(),
            ]
        )
        return drawing

    def _y(self, nbytes: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * nbytes / self.top

    def _heading(self, title: str) -> Iterator[Label]:
        parallel, device = self.prediction.setting.spec.parallel, self.prediction.setting.device
        event = self.worst.event
        where = f"the {event.name}" if event.layer is None else f"layer {event.layer}"
        if event.runs and event.micro_batch is not None:
            where = f"{event.kind} of {where}, micro-batch {event.micro_batch + 1}"
        rank = f", pipeline rank {self.step.rank} of {self.step.ranks}" * (self.step.ranks > 1)
        ranks = f"one of {parallel.ranks:,}, each " if parallel.ranks > 1 else ""
        yield Label(LEFT - 42, 36, title, 20, bold=True)
        yield Label(LEFT - 42, 58, f"{ranks}{device.title}{rank}", fill=MUTED)
        memory = f"{gigabytes(self.peak)} of {gigabytes(self.capacity)} GB at the peak: "
        yield Label(LEFT - 42, 78, memory + where, fill=MUTED)

    def _levels(self) -> Iterator[Polyline | Label]:
        """Yield the gridlines and labels of the byte axis."""
        gap = _round(self.top / 6)
        for number in range(int(self.top / gap) + 1):
            y = self._y(number * gap)
            yield Polyline([(LEFT, y), (LEFT + PLOT, y)], RAIL)
            text = f"{number * gap / 1e9:g}" + (" GB" if number == 0 else "")
            yield Label(LEFT - 8, y + 4, text, 11, "end", MUTED)

    def _areas(self) -> Iterator[Area]:
        below = 0.0
        for key, nbytes in self.constant.items():
            low, high = self._y(below), self._y(below + nbytes)
            corners = [(LEFT, low), (LEFT, high), (LEFT + PLOT, high), (LEFT + PLOT, low)]
            yield Area(corners, CONSTANT[key], f"{MEMORY_LABELS[key]}: {gigabytes(nbytes)} GB")
            below += nbytes
        columns = self._columns()
        floors = [below - moment.lacking for _, moment in columns]
        for part, (name, colour) in VARYING.items():
            tops = [floor + getattr(m, part) for floor, (_, m) in zip(floors, columns, strict=True)]
            edge, base = self._stairs(columns, tops), self._stairs(columns, floors)
            yield Area([*edge, *reversed(base)], colour, name)
            floors = tops

    def _stairs(
        self, columns: Sequence[tuple[float, Moment]], tops: Sequence[float]
    ) -> list[Point]:
        """Return the memory levels; each holds until the next column begins."""
        ends = [x for x, _ in columns[1:]] + [LEFT + PLOT]
        levels = zip(columns, ends, tops, strict=True)
        return [point for (x, _), end, top in levels for point in self._level(x, end, top)]

    def _level(self, begin: float, end: float, nbytes: float) -> tuple[Point, Point]:
        y = self._y(nbytes)
        return (begin, y), (end, y)

    def _columns(self) -> list[tuple[float, Moment]]:
        """Return (x, memory from there on); within half a pixel, the worst moment and the last."""
        columns: list[tuple[float, Moment]] = []
        last = self.curve[0]
        for moment in self.curve:
            if self.fold.begin < moment.time < self.fold.end:
                continue
            x = self.time.x(moment.time)
            if columns and x - columns[-1][0] < 0.5:
                if moment.total > columns[-1][1].total:
                    columns[-1] = (columns[-1][0], moment)
            else:
                if columns and last is not columns[-1][1]:
                    columns.append((columns[-1][0] + 0.5, last))
                columns.append((x, moment))
            last = moment
        return [*columns, (columns[-1][0] + 0.5, last)]

    def _fold(self) -> Iterator[Area | Polyline | Label]:
        """Yield the mark in place of omitted micro-batches."""
        if self.fold.hidden:
            left, right = self.time.x(self.fold.begin), self.time.x(self.fold.end)
            bottom = HEIGHT - BOTTOM + 6 + STRIP
            corners = [(left, TOP), (right, TOP), (right, bottom), (left, bottom)]
            yield Area(corners, "#fbfaf7", f"{self.fold.hidden:,} turns more")
            for x in (left, right):
                yield Polyline([(x, TOP), (x, bottom)], MUTED, 1.0, dashed=True)
            what = "micro-batches" if self.step.virtual == 1 else "turns there and back"
            text = f"… {self.fold.hidden:,} {what} alike …"
            yield Label((left + right) / 2, TOP - 8, text, 11, "middle", MUTED)

    def _limit(self) -> Iterator[Polyline | Label]:
        if self.shows_limit:
            y = self._y(self.capacity)
            yield Polyline([(LEFT, y), (LEFT + PLOT, y)], FULL, 1.6, dashed=True)
            text = f"{gigabytes(self.capacity)} GB: all that there is"
            yield Label(LEFT + PLOT - 6, y - 6, text, 11, "end", FULL)

    def _strip(self) -> Iterator[Area | Label]:
        """Yield the strip of forward and backward turns, with names where they fit."""
        top = HEIGHT - BOTTOM + 6
        yield Label(LEFT + PLOT + 8, top + 12, "then the optimizer", 11, fill=MUTED)
        for name, kind, begin, end in self._turns():
            left, right = self.time.x(begin), self.time.x(end)
            corners = [(left, top), (right, top), (right, top + STRIP), (left, top + STRIP)]
            yield Area(corners, RUNS[kind], name)
            for text in (name, name[0].upper() + name.rpartition(" ")[2]):
                label = Label((left + right) / 2, top + 12, text, 11, "middle", INK)
                low, high = label.extent
                if high - low + 4 <= right - left and kind != "update":
                    yield label
                    break

    def _turns(self) -> Iterator[tuple[str, str, float, float]]:
        """Yield (name, kind, begin, end) of each shown turn and of the optimizer."""
        ends: dict[tuple[int, str, int], list[Event]] = {}
        for event in self.step.events:
            if event.runs and self.fold.shows(event):
                ends.setdefault((event.turn, event.kind, event.micro_batch or 0), []).append(event)
            elif event.kind == "update":
                yield "optimizer", event.kind, event.begin, event.end
        for (_, kind, micro_batch), events in ends.items():
            begin, end = min(event.begin for event in events), max(event.end for event in events)
            yield f"{kind} {micro_batch + 1}", kind, begin, end

    def _ticks(self) -> Iterator[Polyline | Label]:
        """Yield the ticks of the time axis, without overlaps."""
        time, fold, y = self.time, self.fold, HEIGHT - BOTTOM + 6 + STRIP
        gap = _round((time.whole - (fold.end - fold.begin)) / 8)
        free = LEFT - 50.0
        unit, scale = ("s", 1.0) if time.whole >= 2 else ("ms", 1e-3)
        for number in range(int(time.whole / gap) + 1):
            at = number * gap
            if not fold.begin < at < fold.end or not fold.hidden:
                x = time.x(at)
                text = f"{at / scale:g} {unit}" if at else "0"
                label = Label(x, y + 20, text, 11, "middle", MUTED)
                begin, end = label.extent
                if begin > free + 6:
                    yield Polyline([(x, y + 2), (x, y + 7)], MUTED)
                    yield label
                    free = end
        yield Label(LEFT + PLOT / 2, HEIGHT - 18, "time of a step", 12, "middle", MUTED)

    def _legend(self) -> Iterator[Area | Label]:
        """Draw the legend in the order of the stack, with sizes at the peak."""
        x, y = LEFT + PLOT + 24, TOP + 40
        varying = [
            (name, colour, getattr(self.worst, part)) for part, (name, colour) in VARYING.items()
        ]
        constant = [
            (MEMORY_LABELS[key].partition(":")[0], CONSTANT[key], nbytes)
            for key, nbytes in self.constant.items()
        ]
        yield Label(WIDTH - 28, y - 14, "GB, worst moment", 11, "end", MUTED)
        for name, colour, nbytes in reversed(constant + varying):
            corners = [(x, y), (x + 14, y), (x + 14, y + 12), (x, y + 12)]
            yield Area(corners, colour)
            yield Label(x + 22, y + 10.5, name)
            yield Label(WIDTH - 28, y + 10.5, gigabytes(nbytes), anchor="end")
            y += 24
        yield Label(x + 22, y + 14, "together", bold=True)
        yield Label(WIDTH - 28, y + 14, gigabytes(self.peak), anchor="end", bold=True)


def _round(minimum: float) -> float:
    """Round up to 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0**-12
    while True:
        for factor in (1, 2, 2.5, 5):
            if factor * power >= minimum:
                return factor * power
        power *= 10
