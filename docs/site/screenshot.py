"""Draw docs/explorer.png, the README's picture: python docs/site/screenshot.py."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from llamac.cli import main

PICTURE = Path(__file__).parents[1] / "explorer.png"


def draw() -> None:
    """Open 65b's explorer in Debian's chromium and save what it shows, in 128 colours."""
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        page = Path(place) / "65b.html"
        assert main(["inspect", "65b", "--format", "html", "-o", str(page)]) == 0
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
        tab = browser.new_page(viewport={"width": 1200, "height": 720})
        tab.goto(page.as_uri())
        tab.wait_for_timeout(1000)
        tab.screenshot(path=PICTURE)
        browser.close()
    Image.open(PICTURE).convert("RGB").quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    draw()
