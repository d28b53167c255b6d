"""The generated pages of docs/ are what the models, the compiler and the commands say today."""

from __future__ import annotations

import pytest

from llamac.cli import VERBS
from llamac.ir.printer import print_region
from llamac.passes.pass_list import stages
from llamac.spec import load_spec
from llamac.spec.schema import json_schema
from tests.docs.site_script import ROOT, site_script

pages = site_script("pages")
HOW = "If this is what you meant: pytest tests/docs/test_generated.py --update-goldens"


@pytest.mark.parametrize("name", pages.generated(ROOT))
def test_a_page_is_up_to_date(name: str, update_goldens: bool) -> None:
    text, path = pages.generated(ROOT)[name](), ROOT / "docs" / name
    if update_goldens:
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, HOW


def test_every_table_and_key_is_in_the_reference() -> None:
    text = pages.reference()
    for name, table in json_schema()["$defs"].items():
        for key in table.get("properties", {}):
            assert f"| `{key}` |" in text, f"{name}.{key}"


def test_mistakes_end_with_an_error() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    shown = [line for line in text.splitlines() if line.startswith("`llamac ")]
    assert len(shown) == sum(map(len, pages.ERRORS.values()))
    for line in shown:
        assert "(exit code 0)" not in line, line
        assert line.split()[1] in VERBS or "trian" in line
    assert "Traceback" not in text
    assert str(ROOT) not in text


def test_the_line_that_the_ir_page_explains_is_the_compilers() -> None:
    text = (ROOT / "docs" / "ir.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("%")]
    *_, shard = stages(load_spec(ROOT / "specs" / "65b.toml"), stop_after="shard")
    assert line in print_region(shard.program.regions["block"])
