"""The frame of HTML pages: one file in itself, and data that cannot break out of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llamac.look.page import HERE, embedded, page

HOSTILE = ["</script><script>alert(1)</script>", "<!--<script>", "a\u2028b", "é", '"', "\\u003c"]


@pytest.mark.parametrize("text", HOSTILE)
def test_embedded_data_is_what_it_was_and_holds_no_tag(text):
    written = embedded({"text": text})
    assert "<" not in written
    assert json.loads(written) == {"text": text}


def test_numbers_that_json_has_not_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        embedded([float("nan")])


def test_a_page_holds_all_it_needs(tmp_path: Path):
    (tmp_path / "own.css").write_text("p { color: red }")
    (tmp_path / "own.js").write_text("run()")
    styles, scripts = [tmp_path / "own.css"], [tmp_path / "own.js"]
    text = page("a < b", "<p>hello</p>", styles, scripts, {"n": 1})
    assert "<title>a &lt; b</title>" in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    inside = [text.index(part) for part in ("p { color: red }", "<p>hello</p>", '{"n":1}', "run()")]
    assert inside == sorted(inside)


def colours(css: str) -> dict[str, dict[str, str]]:
    """Scheme → variable → colour."""
    blocks = dict(re.findall(r"^(:root[^{]*?) \{(.*?)^\}", css, re.M | re.S))
    names = {"light": ":root", "dark": ':root[data-theme="dark"]'}
    return {
        name: dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[key])) for name, key in names.items()
    }


def contrast(one: str, two: str) -> float:
    """WCAG 2's contrast ratio of two colours."""
    luminances = []
    for colour in (one, two):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        luminances.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    low, high = sorted(luminances)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(scheme):
    found = colours((HERE / "theme.css").read_text())[scheme]
    for name in ("ink", "muted", "accent", "good", "warn", "bad", *(f"s{n}" for n in range(1, 9))):
        for ground in ("paper", "card", "soft"):
            assert contrast(found[name], found[ground]) >= 4.5, (name, ground)
    for fill in ("add", "remove", "mark", "matmul-fill", "attention-fill", "kept-fill"):
        assert contrast(found["ink"], found[fill]) >= 4.5, fill


def test_the_dark_scheme_is_the_same_by_system_and_by_choice():
    css = (HERE / "theme.css").read_text()
    system = re.search(r"@media \(prefers-color-scheme: dark\).*?\{(.*?)\n\} \}", css, re.S)
    chosen = re.search(r':root\[data-theme="dark"\] \{(.*?)\n\}', css, re.S)
    assert system
    assert chosen
    assert chosen[1].strip() in system[1]
