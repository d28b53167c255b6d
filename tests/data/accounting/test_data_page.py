"""The page of `llamac data stats -o` in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamac.data.accounting.accounts import accounts
from llamac.data.accounting.html_page import data_page
from llamac.spec import load_spec
from tests.browser import Opened, in_browser, watched_pages
from tests.data.preparing import prepared, write_corpus, write_spec

pytestmark = in_browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "web")
    write_spec(folder)
    spec = folder / "mix.toml"
    prepared(spec, folder / "prepared")
    text = data_page("mix", accounts(load_spec(spec).data, folder / "prepared"))
    (folder / "page.html").write_text(text)
    return folder / "page.html"


@pytest.fixture
def show(browser: Any) -> Iterator[Opened]:
    with watched_pages(browser, lambda page: page.wait_for_selector("main")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_at_every_width(show, file: Path, scheme: str) -> None:
    for width in (900, 1600):
        page = show(file, width=width, scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for details in page.locator("details").all():
            details.evaluate("one => { one.open = true; }")
        found = page.evaluate("contrast()")
        assert found["faint"] == []
        assert found["html"] > 50
        assert found["svg"] > 10


def test_the_theme_can_be_chosen(show, file: Path) -> None:
    page = show(file)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="theme: auto").click()
    page.get_by_role("button", name="theme: light").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
