"""The page in a browser: it asks nothing of a network, and every control does what it says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamac.cli import main
from llamac.report.curve import curve
from llamac.report.recorded_run import Run
from llamac.report.report_page import report_page
from llamac.report.summary import report
from tests.browser import Opened, in_browser, watched_pages

from .conftest import STEPS, MakeRun, metrics_rows

pytestmark = in_browser


@pytest.fixture
def show(browser: Any) -> Iterator[Opened]:
    """Open a page; afterwards fail for whatever it complained of or asked for."""

    def settle(page: Any) -> None:
        page.wait_for_selector("section")
        page.wait_for_function("charts.length > 1 && charts.every((chart) => chart.box)")

    with watched_pages(browser, settle, "data:") as opened:
        yield opened


@pytest.fixture
def one(make_run: MakeRun, tmp_path: Path) -> Path:
    assert main(["report", str(make_run("alpha")), "-o", str(tmp_path / "one.html")]) == 0
    return tmp_path / "one.html"


@pytest.fixture
def two(make_run: MakeRun, tmp_path: Path) -> Path:
    runs = [make_run("alpha"), make_run("beta", metrics_rows(200, 2), [], ("optimizer.lr=0.001",))]
    assert main(["report", *map(str, runs), "-o", str(tmp_path / "two.html")]) == 0
    return tmp_path / "two.html"


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [900, 1280, 1600])
def test_it_fits_every_width_in_both_schemes(show, two, width, scheme):
    page = show(two, width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(251, 250, 247)") == (scheme == "light")
    blank = "(c) => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    for canvas in page.query_selector_all(".chart canvas"):
        assert canvas.evaluate(blank) > 20  # something is drawn


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(show, two, scheme):
    page = show(two, scheme=scheme)
    for details in page.locator("details").all():
        details.evaluate("one => { one.open = true; }")
    found = page.evaluate("contrast()")
    assert found["faint"] == []
    assert found["html"] > 100
    assert found["canvas"] > 50


def test_numbers_on_the_page_are_those_of_the_rows(show, one):
    page, last = show(one), metrics_rows()[-1]
    tiles = page.inner_text(".tiles")
    assert f"{last['loss']:.4f}" in tiles
    assert f"{2.1 + 1 / 300:.4f}" in tiles
    assert "2 steps skipped" in tiles
    row = page.inner_text("section:has(h2:text('Evaluations')) tbody tr:last-child")
    assert row.split("\t")[0] == "300"
    assert float(row.split("\t")[2]) == pytest.approx(last["validation_loss"], rel=1e-6)


def test_what_tasks_measured_is_shown(show, make_run, tmp_path):
    rows = metrics_rows()
    for step in (100, 200, 300):
        rows[step - 1] |= {"eval/piqa/acc": step / 400, "eval/piqa/acc_stderr": 0.0125}
        rows[step - 1]["eval/piqa/questions"] = 64
    runs = [str(make_run("alpha", rows)), str(make_run("beta", metrics_rows(200, 2)))]
    assert main(["report", *runs, "-o", str(tmp_path / "tasks.html")]) == 0
    page = show(tmp_path / "tasks.html")
    assert page.locator("figcaption", has_text="piqa: acc").count() == 1
    row = page.inner_text("section:has(h2:text('Tasks')) tbody tr").split("\t")
    assert row == ["piqa", "acc", "0.75 ± 0.013", "300", "0.25", "0.75", "64", "3"]


def test_reading_values_by_pointer_and_keyboard(show, one):
    page, rows = show(one), metrics_rows()
    chart = page.locator(".chart").first
    chart.focus()
    page.keyboard.press("Home")
    tip = page.locator(".tip").first
    assert "step 1," in tip.inner_text()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    loss = float(f"{rows[20]['loss']:.7g}")
    assert f"loss: {loss}" in tip.inner_text()
    assert "step 21" in page.locator("[aria-live]").first.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    chart.hover(position={"x": 700, "y": 100})
    assert re.search(r"step \d+, .*tokens", tip.inner_text())


def test_events_are_told_where_they_are_marked(show, one):
    page = show(one)
    marks = page.evaluate("charts[0].placed.map((m) => ({ kind: m.event.kind, x: m.x, y: m.y }))")
    kinds = [mark["kind"] for mark in marks]
    assert [kinds.count(k) for k in ("start", "resume", "save", "skipped", "stop")] == [
        1,
        2,
        6,
        2,
        2,
    ]
    resume = next(mark for mark in marks if mark["kind"] == "resume")
    page.locator(".chart").first.hover(position={"x": resume["x"], "y": resume["y"]})
    told = page.locator(".tip").first.inner_text()
    assert "killed" in told
    assert "7 steps were repeated" in told
    assert "dp_shard 4 of cuda → tp 2 × dp_shard 2 of cuda" in told
    listed = page.inner_text("section:has(h2:text('Events'))")
    assert "no space left on device" in listed
    assert listed.count("skipped, as loss or gradients were not finite") == 2
    order = [line.split("\t")[0] for line in listed.splitlines() if "\t" in line][1:]
    assert order == [
        "start",
        "resume, other layout",
        "skipped",
        "skipped",
        "stop",
        "resume",
        "stop",
    ]


def test_zoom_by_dragging_and_back(show, one):
    page = show(one)
    box = page.locator(".chart").first.bounding_box()
    page.mouse.move(box["x"] + 400, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 800, box["y"] + 120)
    page.mouse.up()
    low, high = page.evaluate("view.range")
    assert 0 < low < high < STEPS * 2048
    assert "from=" in page.url
    again = show(
        Path(page.url.removeprefix("file://").partition("#")[0]), "#" + page.url.split("#")[1]
    )
    assert again.evaluate("view.range") == pytest.approx([low, high], rel=1e-6)
    press(page, "show all")
    assert page.evaluate("view.range") is None
    page.locator(".chart").first.focus()
    page.keyboard.press("+")
    assert page.evaluate("view.range") is not None
    page.keyboard.press("0")
    assert page.evaluate("view.range") is None


def test_axes_smoothing_and_scales(show, one):
    page = show(one)
    for name, axis in (("steps", "step"), ("time", "hours"), ("tokens", "tokens")):
        press(page, name)
        assert page.evaluate("view.axis") == axis
    assert "smoothed" not in page.inner_text("#legend")
    before = page.evaluate("charts[0].prepared(900)[0].points.map((p) => p?.y ?? null)")
    press(page, "5%")
    assert "smoothed: running mean over 15 steps" in page.inner_text("#legend")
    after = page.evaluate("charts[0].prepared(900)[0].points.map((p) => p?.y ?? null)")
    losses = [row["loss"] for row in metrics_rows()]
    assert before[1:] == losses[1:]
    assert after[200] == pytest.approx(np.mean(losses[193:208]))
    press(page, "none")
    scale = page.evaluate("charts[0].scale(charts[0].prepared(900))")
    assert scale[1] < 5  # the first losses set no scale, which is said
    assert page.evaluate("charts[0].beyond[1]") == max(filter(None, losses))
    press(page, "whole range")
    assert page.evaluate("charts[0].scale(charts[0].prepared(900))[1]") > max(filter(None, losses))
    press(page, "log loss")
    assert page.evaluate("charts[0].useLog")
    assert "log=1" in page.url


def test_runs_side_by_side(show, two):
    page = show(two)
    table = page.inner_text("section:has(h2:text('What differs')) tbody")
    assert table.split("\t") == ["optimizer.lr", "0.002", "0.001"]
    assert len(page.query_selector_all("main > .wide tbody tr")) == 2
    page.locator("#legend").get_by_role("button", name="beta (tiny)").click()
    assert page.evaluate("charts[0].lines.map((line) => line.run)") == [0, 0]
    assert "hide=1" in page.url
    page.locator(".picker").get_by_role("button", name="beta (tiny)").click()
    assert "This run recorded no events.jsonl" in page.inner_text("#details")
    assert "run=1" in page.url


def test_the_theme_can_be_chosen(show, one):
    page = show(one)
    colours = set()
    for name in ("theme: auto", "theme: light", "theme: dark"):
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        press(page, name)
    assert len(colours) == 2


def test_a_chart_can_be_saved(show, one):
    page = show(one)
    with page.expect_download() as caught:
        page.get_by_title("save “loss” as a picture").click()
    assert caught.value.suggested_filename == "loss.png"
    assert Path(caught.value.path()).read_bytes()[:4] == b"\x89PNG"


def test_text_of_a_run_is_never_markup(show, make_run, tmp_path):
    evil = "</script><img src=x onerror=document.title='owned'>"
    events = [
        {"event": "sample", "step": 5, "text": evil},
        {"event": "stop", "step": 9, "error": evil},
    ]
    run = make_run("run", None, events, (f"eval.prompt={json.dumps(evil)}",))
    page_file = tmp_path / "page.html"
    assert main(["report", str(run), "-o", str(page_file)]) == 0
    page = show(page_file)
    assert evil in page.inner_text("#details")
    assert page.title() == "run (tiny)"
    assert page.query_selector("img") is None


def test_a_run_without_a_step_has_a_page_too(browser, make_run, tmp_path):
    page_file = tmp_path / "page.html"
    assert main(["report", str(make_run("run", "", [])), "-o", str(page_file)]) == 0
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{page_file}")
    page.wait_for_selector("section")
    assert "no step has ended yet" in page.inner_text("header")
    assert errors == []


def test_a_million_steps_are_drawn_within_three_seconds(show, make_run, tmp_path):
    run = Run(make_run("run"))
    count = 1_000_000
    steps = np.arange(1, count + 1, dtype=float)
    columns = {
        name: np.random.default_rng(0).normal(2, 0.1, count) for name in ("loss", "mfu", "lr")
    }
    columns["loss"][123_456] = 50.0
    data = report([run])
    data["runs"][0]["curve"] = curve({"step": steps, "tokens": steps * 2048, **columns})
    (tmp_path / "page.html").write_text(report_page(data))
    assert (tmp_path / "page.html").stat().st_size < 2_000_000
    began = time.monotonic()
    page = show(tmp_path / "page.html")
    assert time.monotonic() - began < 3
    press(page, "whole range")
    assert page.evaluate("charts[0].scale(charts[0].prepared(900))[1]") > 50  # the spike is kept
