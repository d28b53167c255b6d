"""The site that mkdocs.yml builds of docs/: without network, and with no page or link lost."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?https?://|"""
    r"""<link\b[^>]*\bhref=["']?https?://|@import\s+(?:url\()?["']?https?:"""
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def build(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", "html"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True)


def test_the_site_builds_and_fetches_nothing(tree: Path) -> None:
    done = build(tree)
    assert done.returncode == 0, done.stderr
    pages = list((tree / "html").rglob("*.html"))
    assert len(pages) >= len(list((tree / "docs").glob("*.md"))) + 4
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not FETCHED.search(text), f"{page.name} fetches {FETCHED.search(text)}"
        assert "```" not in text.replace("<code>```", ""), f"{page.name}: a fence was not read"


@pytest.mark.parametrize(
    "fault",
    [("new.md", "# A page that no menu leads to\n"), ("spec.md", "[gone](gone.md)\n")],
    ids=["a page that mkdocs.yml does not name", "a link that leads nowhere"],
)
def test_a_fault_stops_the_build_by_name(fault: tuple[str, str], tree: Path) -> None:
    name, text = fault
    (tree / "docs" / name).write_text(text, encoding="utf-8")
    done = build(tree)
    assert done.returncode == 1
    assert name in done.stderr


def test_text_stands_out_in_both_schemes(tree: Path) -> None:
    browser = pytest.importorskip("tests.browser")
    if browser.CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    assert build(tree).returncode == 0
    faint = {}
    with browser.chromium() as chromium:
        for scheme in ("light", "dark"):
            context = chromium.new_context(color_scheme=scheme)
            context.add_init_script(path=browser.CONTRAST)
            page = context.new_page()
            for name in ("overview", "passes", "reference", "errors"):
                page.goto((tree / "html" / name / "index.html").as_uri())
                faint[scheme, name] = page.evaluate("contrast().faint")
    assert not any(faint.values()), faint
