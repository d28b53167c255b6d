"""Relative paths start from the spec that gives them, wherever llamac is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamac.spec import load_spec

SOURCE = """
[[data.source]]
name = "own"
kind = "files"
paths = ["texts/*.txt", "/absolute/*.txt", "~/home.txt"]
share = 1

[[data.source.stage]]
stage = "quality"
"""


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A child in one directory that extends a base in another, seen from a third."""
    for name in ("base[1]", "child", "elsewhere"):
        (tmp_path / name).mkdir()
    keys = '[tokenizer]\npath = "t.model"\neos = 2\n[hardware]\ngpu = "my.toml"\n'
    (tmp_path / "base[1]/base.toml").write_text(f'extends = "tiny"\n{keys}{SOURCE}')
    child = 'extends = "../base[1]/base.toml"\n[data]\ndirectory = "prepared"\n'
    (tmp_path / "child/run.toml").write_text(child)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_each_path_starts_from_the_spec_that_gives_it(specs: Path, absolute: bool) -> None:
    spec = load_spec(specs / "child/run.toml" if absolute else "../child/run.toml")
    base = f"{specs}/base[[]1]"  # in a glob
    (source,) = spec.data.source
    assert source.paths == (f"{base}/texts/*.txt", "/absolute/*.txt", "~/home.txt")
    assert spec.tokenizer.path == f"{specs}/base[1]/t.model"
    assert spec.hardware.gpu == f"{specs}/base[1]/my.toml"
    assert spec.data.directory == f"{specs}/child/prepared"
    assert source.stage[0].model == f"{specs}/base[1]/models/quality.bin"  # type: ignore[union-attr]


def test_set_starts_from_the_working_directory(specs: Path) -> None:
    spec = load_spec("../child/run.toml", ["tokenizer.path=mine.model", "data.directory=../d"])
    assert spec.tokenizer.path == f"{specs}/elsewhere/mine.model"
    assert spec.data.directory == f"{specs}/d"


def test_a_device_s_name_is_no_path(specs: Path) -> None:
    assert load_spec("../child/run.toml", ["hardware.gpu=a100-80gb"]).hardware.gpu == "a100-80gb"


def test_shipped_specs_start_from_the_working_directory(specs: Path) -> None:
    assert load_spec("65b").data.source[0].paths[0].startswith(f"{specs}/elsewhere/data/")


def test_the_resolved_spec_and_revisions_mean_the_same_paths_anywhere(
    specs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_spec("../child/run.toml")
    (specs / "resolved.toml").write_text(spec.to_toml())
    monkeypatch.chdir("/")
    assert load_spec(specs / "resolved.toml") == spec
    assert spec.replace({"seed": 7}).data == spec.data
