"""The picture of memory: its top is the predicted peak, and its words lie apart."""

from __future__ import annotations

import io
from itertools import combinations
from xml.etree import ElementTree

import pytest

from llamac.plan.render.canvas import Area, Drawing, Label, Polyline, png, svg
from llamac.plan.render.memory_picture import memory_picture
from llamac.plan.render.prediction_tables import gigabytes
from llamac.plan.timeline.memory_timeline import moments
from llamac.plan.timeline.step import StepTimeline
from tests.plan.steps import LAYOUTS, planned

layouts = pytest.mark.parametrize("name", LAYOUTS)


@pytest.mark.slow
@layouts
def test_the_worst_moment_is_the_predicted_peak(name: str) -> None:
    # Two ways to the same bytes: all that is alive op by op, and kept layers plus the deepest one.
    prediction, program = planned(name)
    ranks = {0, prediction.setting.spec.parallel.pipeline - 1}
    worst = max(m.total for rank in ranks for m in moments(StepTimeline(prediction, program, rank)))
    memory = prediction.memory
    assert worst == pytest.approx(memory.activations + memory.logits, rel=0.02)


@pytest.mark.parametrize("name", ["one rank", "micro-batches", "DDP", "FSDP over tensor ranks"])
def test_plan_and_picture_agree_on_logits(name: str) -> None:
    prediction, program = planned(name)
    worst = max(moments(StepTimeline(prediction, program)), key=lambda moment: moment.total)
    assert worst.logits == prediction.memory.logits


@pytest.mark.slow
@layouts
def test_a_step_ends_with_nothing_kept(name: str) -> None:
    *_, last = moments(StepTimeline(*planned(name)))
    assert last.saved == pytest.approx(0.0, abs=1.0)
    assert last.working == last.logits == 0.0


def test_activations_rise_over_the_forward_pass_and_fall_over_the_backward() -> None:
    found = list(moments(StepTimeline(*planned("recomputed"))))
    first = [m for m in found if m.event.micro_batch == 0]
    rising = [m.saved for m in first if m.event.kind == "forward" and m.event.layer is not None]
    falling = [m.saved for m in first if m.event.kind == "backward" and m.event.layer is not None]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    again = max(m.working for m in first if m.event.kind == "backward")
    assert again > max(rising) / 8  # what one layer computes again is more than what it keeps


@pytest.mark.slow
@layouts
def test_labels_do_not_overlap_nor_leave_the_picture(name: str) -> None:
    drawing = memory_picture(*planned(name))
    labels = [shape for shape in drawing.shapes if isinstance(shape, Label)]
    for label in labels:
        begin, end = label.extent
        assert begin >= 0, label.text
        assert end <= drawing.width, label.text
        assert label.size <= label.y <= drawing.height - 4, label.text
    for one, other in combinations(labels, 2):
        apart = one.extent[1] <= other.extent[0] or other.extent[1] <= one.extent[0]
        below = abs(one.y - other.y) >= min(one.size, other.size)
        assert apart or below, (one.text, other.text)


@pytest.mark.slow
@layouts
def test_areas_stay_within_the_plot_and_the_capacity_is_drawn_where_it_is_near(name: str) -> None:
    prediction, program = planned(name)
    drawing = memory_picture(prediction, program)
    for shape in drawing.shapes:
        if isinstance(shape, Area):
            assert all(0 <= x <= drawing.width for x, _ in shape.points)
            assert all(0 <= y <= drawing.height for _, y in shape.points)
    words = [shape.text for shape in drawing.shapes if isinstance(shape, Label)]
    near = prediction.setting.device.memory <= 3 * prediction.memory.total
    limit = f"{gigabytes(prediction.setting.device.memory)} GB: all that there is"
    assert (limit in words) == near


@pytest.mark.slow
def test_both_forms_can_be_read_and_are_the_same_every_time() -> None:
    from PIL import Image

    drawing = memory_picture(*planned("FSDP over tensor ranks"))
    again = memory_picture(*planned("FSDP over tensor ranks"))
    root = ElementTree.fromstring(svg(drawing))
    assert root.tag.endswith("svg")
    assert svg(drawing) == svg(again)
    with Image.open(io.BytesIO(png(drawing))) as image:
        assert image.format == "PNG"
        assert image.size == (2 * drawing.width, 2 * drawing.height)
        assert len(image.getcolors(maxcolors=2**20) or ()) > 20
    assert png(drawing) == png(again)


def test_words_are_escaped_and_dashes_have_gaps() -> None:
    drawing = Drawing(40, 20, "a < b & c")
    dashes = Polyline([(0, 5), (40, 5)], "#000000", 1.0, dashed=True)
    drawing.shapes.extend([Label(2, 12, "<x>"), dashes])
    text = svg(drawing)
    assert "&lt;x&gt;" in text
    assert "a &lt; b &amp; c" in text
    from PIL import Image

    with Image.open(io.BytesIO(png(drawing, scale=1))) as image:
        dark = [image.getpixel((x, 5))[0] < 128 for x in range(40)]  # type: ignore[index]
    assert any(dark)
    assert not all(dark)
