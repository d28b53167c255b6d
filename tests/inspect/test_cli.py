"""`llamac inspect` as it is called."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from llamac.cli import main
from llamac.ir.printer import print_program, print_region
from tests.inspect.conftest import compiled, last


def test_the_default_is_the_last_stage_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "tiny"]) == 0
    assert capsys.readouterr().out == print_program(last("tiny"))


def test_one_region_after_one_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "tiny", "--after", "pack", "--region", "block"]) == 0
    assert capsys.readouterr().out == print_region(compiled("tiny")["pack"].regions["block"]) + "\n"


def test_set_reaches_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set", "recompute.policy=full", "--memory", "--format", "json"]
    assert main(["inspect", "tiny", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {r["name"]: r["saved_sbh"] for r in found["regions"]}["block"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "python", "json", "dot", "svg", "html"])
def test_every_format_writes_a_file_of_the_same_bytes(form: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["inspect", "tiny", "--format", form, "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    if form == "svg":
        ElementTree.parse(tmp_path / "a")


def test_diff_writes_no_colours_to_what_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "tiny", "--diff", "pack", "fuse", "--region", "block"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tiny: pack → fuse\n")
    assert "\x1b" not in out
    assert "head.forward" not in out


def test_diff_and_memory_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "tiny", "--diff", "pack", "fuse", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"] == ["pack", "fuse"]
    assert main(["inspect", "tiny", "--memory", "--region", "head", "--format", "json"]) == 0
    assert [r["name"] for r in json.loads(capsys.readouterr().out)["regions"]] == ["head"]


def test_the_spec_that_is_compared_with_is_never_overwritten(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('extends = "tiny"\n')
    arguments = ["--format", "html", "--compare", str(other), "-o", str(other), "--overwrite"]
    assert main(["inspect", "tiny", *arguments]) == 2
    assert other.read_text() == 'extends = "tiny"\n'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--after", "fold"], "'fold' is not one of lower, pack, fuse, select_kernels"),
        (["--diff", "pack", "fold"], "'fold' is not one of lower, pack, fuse, select_kernels"),
        (["--diff", "fuse", "pack"], "write --diff pack fuse"),
        (["--region", "tail"], "'tail' does not exist after overlap; known: embed, block"),
        (["--region", "evaluate", "--after", "pack"], "'evaluate' does not exist after pack"),
        (["--diff", "pack", "fuse", "--memory"], "cannot be combined with --memory"),
        (["--diff", "pack", "fuse", "--after", "fuse"], "leave out --after"),
        (["--diff", "pack", "fuse", "--format", "svg"], "as text or json, not as svg"),
        (["--memory", "--format", "html"], "as text or json, not as html"),
        (["--memory", "--after", "fuse"], "use --after differentiate or checkpoint"),
        (["--memory", "--region", "logits"], "logits is for inference and saves nothing"),
        (["--format", "html", "--region", "block"], "shows all regions"),
        (["--compare", "7b"], "it needs --format html"),
        (["--format", "html", "--compare", "nothing"], "'nothing' is neither a spec nor a layout"),
        (["--format", "html", "--compare", "tp3"], "there are 1 GPUs"),
        (["--format", "png"], "'png' is not one of"),
        (["-o", "/"], "/ is a directory"),
        (["-o", "/nowhere/at/all"], "there is no directory /nowhere/at"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "tiny", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert captured.out == ""
