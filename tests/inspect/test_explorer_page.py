"""The explorer in a browser: every control does what it says, and nothing is asked of a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamac.cli import main
from tests.browser import Opened, in_browser, watched_pages

pytestmark = in_browser
PIPELINE = ["parallel.pipeline=4", "parallel.data_shard=64", "batch.micro_batch=1"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("pages")
    made = {
        "65b": ["65b"],
        "pair": ["65b", "--compare", "tp4,pp2,mb1"],
        "tiny": ["tiny"],
        "pipeline": ["65b", *(word for one in PIPELINE for word in ("--set", one))],
        "early": ["65b", "--after", "fuse"],
    }
    for name, arguments in made.items():
        target = str(place / f"{name}.html")
        assert main(["inspect", *arguments, "--format", "html", "-o", target]) == 0
    return {name: place / f"{name}.html" for name in made}


@pytest.fixture
def show(pages: dict[str, Path], browser: Any) -> Iterator[Opened]:
    """Open a page by name; afterwards fail for whatever it complained of or asked for."""
    ready = "body[data-ready]"
    with watched_pages(browser, lambda page: page.wait_for_selector(ready), "blob:", "data:") as on:
        yield lambda name, *rest, **given: on(pages[name], *rest, **given)


def fragment(page: Any) -> str:
    return page.evaluate("location.hash")


def count(page: Any, selector: str) -> int:
    return page.locator(selector).count()


def test_65b_is_at_work_within_two_seconds(show) -> None:
    taken = [int(show("65b").get_attribute("body", "data-ready")) for _ in range(3)]
    assert min(taken) < 2000


@pytest.mark.parametrize("name", ["65b", "pair", "tiny", "pipeline", "early"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_shows_at_every_width(show, name: str, scheme: str) -> None:
    for width in (900, 1600):
        page = show(name, width=width, scheme=scheme)
        tabs = page.get_by_role("tab")
        for at in range(tabs.count()):
            tabs.nth(at).click()
            assert tabs.nth(at).get_attribute("aria-selected") == "true"
            assert page.locator("#view").inner_text().strip()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            unnamed = "button:not([aria-label]), [role=button]:not([aria-label])"
            for text in page.locator(unnamed).evaluate_all("all => all.map(e => e.textContent)"):
                assert text.strip()


def test_passes_step_hide_find_and_differ(show) -> None:
    page = show("65b")
    current = page.locator(".passes [aria-current]")
    assert current.inner_text().startswith("pack")
    page.keyboard.press("j")
    assert "pass=fuse" in fragment(page)
    page.keyboard.press("k")
    page.get_by_label("Next pass (j)").click()
    assert current.get_attribute("data-pass") == "fuse"
    assert "add_rms_norm" in page.locator(".tables").inner_text()
    every = count(page, ".passes li")
    page.locator("[data-key=hide]").check()
    assert count(page, ".passes li") == every - 3
    assert count(page, ".passes .still") == 0
    assert count(page, ".diff.beside .add") > 0
    page.locator("button[data-value=inline]").click()
    assert count(page, ".diff.inline .sign") > 0
    page.keyboard.press("s")
    assert count(page, ".diff.beside") == 1
    gaps = count(page, ".gap")
    page.locator(".gap").first.click()
    assert count(page, ".gap") == gaps - 1
    page.locator("[data-key=whole]").check()
    assert count(page, ".gap") == 0
    page.locator("#find-pass").fill("reduce_scatter(")
    assert page.locator(".passes button").evaluate_all("all => all.map(b => b.dataset.pass)") == [
        "shard",
        "differentiate",
        "checkpoint",
        "overlap",
    ]
    assert page.evaluate("document.activeElement.id") == "find-pass"
    page.locator(".passes button").first.click()
    assert count(page, "mark") > 0


LINKED = """() => {
  const wrong = [];
  for (const [key, node] of Object.entries(side().nodes)) {
    if (!key.startsWith("block.")) continue;
    for (const row of document.querySelectorAll(`.code [data-node="${key}"]`)) {
      row.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
      const lit = [...document.querySelectorAll(".code .lit")];
      const panes = new Map();
      for (const one of lit) {
        const pane = one.closest(".code").dataset.pane;
        panes.set(pane, [...(panes.get(pane) ?? []), one]);
      }
      const texts = (pane) => (panes.get(pane) ?? []).map((one) => one.innerText).join(" ");
      const all = (pane) => node.values.every((value) => texts(pane).includes(value.name));
      const where = (panes.get("spec") ?? []).map((one) => one.dataset.place);
      if (panes.get("IR")?.length !== 1 || !all("IR")) wrong.push([key, "IR", texts("IR")]);
      if (!panes.get("Python")?.length || !all("Python")) wrong.push([key, "Python"]);
      if (String(where) !== node.where) wrong.push([key, "spec", String(where)]);
    }
  }
  return wrong;
}"""


def test_hovering_lights_all_three_texts_for_every_node_of_a_block(show) -> None:
    page = show("65b", "#view=links", width=1600)
    assert page.evaluate(LINKED) == []
    line = page.locator('.code[data-pane=spec] [data-place="65b.toml:13"]')
    line.hover()
    lit = page.locator(".code[data-pane=IR] .lit").all_inner_texts()
    assert lit
    assert all("# 65b.toml:13" in text for text in lit)


def test_clicking_pins_and_the_address_keeps_it(show) -> None:
    page = show("65b", "#view=links", width=1600)
    page.locator('.code[data-pane=IR] [data-node="block.f.gate_up"]').click()
    assert "node=block.f.gate_up" in fragment(page)
    assert count(page, ".code[data-pane=spec] .pinned") == 1
    assert page.locator(".code[data-pane=Python] .pinned").first.is_visible()
    panel = page.locator("#node").inner_text()
    for words in ("tp S(2)", "dp_shard", "saved for the backward pass", "bound by", "d_w13"):
        assert words in panel
    assert count(page, ".code .kin") >= 4  # its gradients, in IR and in Python
    page.locator('#node button[data-node="block.b.d_w13"]').click()
    assert "comes from" in page.locator("#node").inner_text()
    page.reload()
    assert "linear_weight_gradient" in page.locator("#node").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#node").is_hidden()
    assert "node=" not in fragment(page)


def test_texts_can_be_walked_by_keys(show) -> None:
    page = show("65b", "#view=links")
    page.locator(".code[data-pane=IR]").focus()
    for _ in range(5):
        page.keyboard.press("ArrowDown")
    active = page.locator(".code[data-pane=IR]").get_attribute("aria-activedescendant")
    page.keyboard.press("Enter")
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"


def test_search_finds_by_name_op_shape_layout_and_axis(show) -> None:
    page = show("65b", "#view=drawing")
    for query, matches in {
        "wqkv": "key.includes('qkv') || node.op.startsWith('linear')",
        "op:rms_norm": "node.op.includes('rms_norm')",
        "shape:S/tp": "node.values.some(v => v.shape.includes('S/tp'))",
        "layout:P": "node.values.some(v => v.chips.some(c => c[1] === 'P'))",
        "axis:tp op:all_gather": "node.op.startsWith('all_gather')",
        "is:recomputed": "node.again || node.values.some(v => v.status === 'recomputed')",
    }.items():
        page.locator("#query").fill(query)
        assert page.evaluate("hits().length") > 0
        every = "hits().every((key) => { const node = nodeOf(key); return MATCHES; })"
        assert page.evaluate(every.replace("MATCHES", matches)), query
        assert page.locator("#found").inner_text() == f"{page.evaluate('hits().length')} nodes"
    assert count(page, ".drawing .hit") > 0
    page.keyboard.press("Enter")
    first = fragment(page)
    page.locator("#next-hit").click()
    assert fragment(page) != first
    page.locator("#previous-hit").click()
    assert fragment(page) == first


def test_the_drawing_can_be_narrowed_sized_and_pinned(show) -> None:
    page = show("65b", "#view=drawing", width=900)
    smallest = "Math.min(...[...document.querySelectorAll('.drawing text')]"
    smallest += ".map((t) => t.getBoundingClientRect().height))"
    assert page.evaluate(smallest) > 10  # letters stay readable at 900 px
    boxes = count(page, ".drawing g[data-key]")
    page.locator("button[data-value=forward]").click()
    assert count(page, ".drawing g[data-key]") < boxes
    assert count(page, '.drawing g[data-key^="b."]') == 0
    wide = page.locator(".drawing").get_attribute("width")
    page.get_by_label("Larger").click()
    assert float(page.locator(".drawing").get_attribute("width")) > float(wide)
    page.locator("button[data-value=head]").click()
    assert page.locator(".canvas").get_attribute("aria-label") == "Drawing of head"
    page.locator("button[data-region=block]").click()
    nodes = "[...document.querySelectorAll('.drawing [data-node]')].map((g) => g.dataset.node)"
    page.locator("button[data-value=all]").click()
    assert page.evaluate(f"{nodes}.every((key) => nodeOf(key))")
    page.locator('.drawing [data-node="block.f.attention"]').first.click()
    assert "attention" in page.locator("#node h2").inner_text()
    assert count(page, ".drawing .joined") > 0


@pytest.mark.parametrize("name", ["65b", "pipeline"])
def test_memory_tells_who_lives_at_the_peak_and_where_one_clicks(show, name: str) -> None:
    page = show(name, "#view=memory")
    held = page.evaluate("gigabytes(side().step.peak)")
    assert page.locator(".living h3").inner_text().startswith(f"{held} GB")
    assert "run" in page.locator(".living summary").last.inner_text()
    page.locator(".chart").click(position={"x": 150, "y": 120})
    assert "at=" in fragment(page)
    assert not page.locator(".living h3").inner_text().startswith(f"{held} GB")
    before = fragment(page)
    page.keyboard.press("ArrowRight")
    assert fragment(page) != before
    page.locator("[data-moment=peak]").click()
    assert "at=" not in fragment(page)
    page.locator(".living button.link:visible").first.click()
    assert page.locator("#node").is_visible()


def test_the_timeline_zooms_and_its_ops_can_be_pinned(show) -> None:
    page = show("65b", "#view=timeline")
    page.locator('[data-zoom="One layer\'s backward pass"]').click()
    span = fragment(page)
    assert "span=" in span
    page.keyboard.press("ArrowRight")
    assert fragment(page) != span
    page.locator('[data-zoom="One layer\'s backward pass"]').click()
    place = page.evaluate(
        "(() => { const one = document.querySelector('canvas').shown.find((s) => s.box.node"
        " && s.box.kind === 'op' && s.right - s.left > 20);"
        " return [(one.left + one.right) / 2, (one.top + one.bottom) / 2, one.box.node]; })()"
    )
    page.locator("canvas").click(position={"x": place[0], "y": place[1]})
    assert f"node={place[2]}" in fragment(page)
    assert "backward of layer" in page.locator("#pointed").inner_text()
    page.keyboard.press("0")
    assert "span=" not in fragment(page)


@pytest.mark.parametrize("view", ["timeline", "memory"])
def test_the_trace_that_is_saved_is_the_plan_s(show, view: str, tmp_path: Path) -> None:
    page = show("65b", f"#view={view}")
    with page.expect_download() as download:
        page.locator("#perfetto").click()
    assert main(["plan", "65b", "--trace", str(tmp_path / "plan.json")]) == 0
    download.value.save_as(tmp_path / "page.json")
    saved, planned = (
        json.loads((tmp_path / name).read_text()) for name in ("page.json", "plan.json")
    )
    assert saved["traceEvents"] == planned["traceEvents"]


def test_communication_sorts_and_leads_to_its_nodes(show) -> None:
    page = show("65b", "#view=traffic")
    column = "[...document.querySelectorAll('.traffic tbody tr')].map((r) => r.cells[6].innerText)"
    page.locator("[data-sort=times]").click()
    times = [int(text) for text in page.evaluate(column)]
    assert times == sorted(times, reverse=True)
    page.locator("[data-sort=times]").click()
    assert [int(text) for text in page.evaluate(column)] == sorted(times)
    page.locator(".traffic button.link").first.click()
    assert "exposed" in page.locator("#node").inner_text()


def test_two_layouts_side_by_side(show) -> None:
    page = show("pair", "#view=compare")
    assert "beats" in page.locator(".verdict").inner_text()
    assert "tensor = 4" in page.locator(".diff").inner_text()
    page.locator("button[data-value='model.py']").click()
    assert "STAGES" in page.locator(".diff").inner_text()
    page.get_by_role("button", name="B: tp4,pp2").click()
    assert "side=1" in fragment(page)
    assert "pp 2" in page.locator("#summary").inner_text()


def test_theme_help_and_keys(show) -> None:
    page = show("tiny")
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.evaluate(paper) != before
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("3")
    assert "view=drawing" in fragment(page)
    page.keyboard.press("/")
    page.keyboard.type("j3")
    assert page.locator("#query").input_value() == "j3"
    assert "view=drawing" in fragment(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(show, scheme: str) -> None:
    page = show("pair", "#node=block.f.gate_up", scheme=scheme)
    kinds = {"html": 0, "svg": 0, "canvas": 0}
    for at in range(page.get_by_role("tab").count()):
        page.get_by_role("tab").nth(at).click()
        found = page.evaluate("contrast()")
        assert found.pop("faint") == []
        kinds = {kind: count + found[kind] for kind, count in kinds.items()}
    assert all(kinds.values()), kinds
