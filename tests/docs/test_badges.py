"""The README's badges say what the project says."""

from __future__ import annotations

import re
import tomllib
from xml.etree import ElementTree

import pytest

from tests.docs.site_script import ROOT, site_script

README = (ROOT / "README.md").read_text(encoding="utf-8")
badges = site_script("badges")


@pytest.mark.parametrize("name", badges.badges())
def test_a_badge_says_what_the_project_says(name: str, update_goldens: bool) -> None:
    text, path = badges.badges()[name], badges.BADGES / name
    if update_goldens:
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "python docs/site/badges.py"
    assert f"docs/badges/{name}" in README


def test_badges_name_the_versions_that_pip_would_take() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    label = ElementTree.fromstring(badges.badges()["python.svg"]).attrib["aria-label"]
    first, last = (int(minor) for minor in re.findall(r"3\.(\d+)", label))
    assert project["requires-python"] == f">=3.{first},<3.{last + 1}"
    assert f"Python 3.{first}–3.{last}" in README
