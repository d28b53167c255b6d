"""The README's cast shows what it says, and its script runs."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.site_script import ROOT, site_script

README = (ROOT / "README.md").read_text(encoding="utf-8")
SVG = "{http://www.w3.org/2000/svg}"
cast = site_script("cast")


def test_the_cast_shows_its_commands_and_ends_with_all_lines() -> None:
    assert "docs/cast.svg" in README
    path = ROOT / "docs/cast.svg"
    assert path.stat().st_size < 300_000
    said = ["".join(line.itertext()) for line in ElementTree.parse(path).iter(f"{SVG}text")]
    assert [line[2:] for line in said if line.startswith("$ ")] == [c for _, c in cast.COMMANDS]
    for words in ("tiny is valid", "tiny is compiled correctly", "done: loss", "fits: "):
        assert any(words in line for line in said), words


@pytest.mark.slow
def test_the_script_of_the_cast_records_and_draws(tmp_path: Path) -> None:
    lines = cast.recorded(
        [({}, "llamac check tiny"), ({"NO_COLOR": "1"}, "llamac check 65b")], tmp_path
    )
    assert all(line.at <= cast.TYPING for line in lines)
    drawn = ElementTree.fromstring(cast.drawing(lines))
    texts = list(drawn.iter(f"{SVG}text"))
    said = ["".join(text.itertext()) for text in texts]
    assert "tiny is valid" in said
    assert "65b is valid" in said
    assert texts[said.index("tiny is valid")][0].attrib["class"] == "b green"
    assert not list(texts[said.index("65b is valid")])  # NO_COLOR
    assert max(map(len, said)) <= cast.COLUMNS


@pytest.mark.slow
def test_a_command_that_fails_ends_the_recording(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="failed"):
        cast.recorded([({}, "llamac check nowhere.toml")], tmp_path)
