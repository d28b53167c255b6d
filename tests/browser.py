"""Pages in headless Chromium: a module that imports this is skipped where that cannot run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]
Opened = Callable[..., Any]
CONTRAST = Path(__file__).with_name("contrast.js")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def watched_pages(browser: Any, settle: Callable[[Any], object], *allowed: str) -> Iterator[Opened]:
    """Yield a function that opens a file; at the end fail for whatever pages complained of.

    Pages have a function `contrast()`: how many texts of HTML, SVG and canvases there are, and
    which of them stand out too little.

    settle: waits until a page is ready. allowed: beginnings of addresses that a page may ask for.
    """
    wrong: list[str] = []
    contexts = []

    def opened(file: Path, fragment: str = "", width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        context.add_init_script(path=CONTRAST)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else 0)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", *allowed)) or wrong.append(r.url))
        page.goto(f"file://{file}{fragment}")
        settle(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
