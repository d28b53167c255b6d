"""Files that options name: never over what llamac did not make, nor over an input."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer

from llamac.cli import main
from llamac.cli.common.output import check_output, inputs_of, write_output
from llamac.spec import load_spec

CONTENTS = {
    "a.toml": "[device]\nname = 'x'\n",
    "a.svg": "<svg xmlns='http://www.w3.org/2000/svg'><g/></svg>\n",
    "a.html": "<!doctype html>\n<p>x</p>",
    "a.json": '{"a": [1, 2]}',
    "a.png": b"\x89PNG\r\n\x1a\n....IEND....",
    "a.dot": "digraph x {\n}\n",
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_llamac_wrote_is_replaced_until_somebody_edits_it(name: str, tmp_path: Path) -> None:
    path, content = tmp_path / name, CONTENTS[name]
    write_output(path, content)
    write_output(path, content)
    first = path.read_bytes()
    path.write_bytes(first.replace(b"x", b"y") if b"x" in first else first + b" ")
    edited = path.read_bytes()
    with pytest.raises(typer.BadParameter, match="--overwrite"):
        write_output(path, content)
    assert path.read_bytes() == edited
    write_output(path, content, overwrite=True)
    assert path.read_bytes() == first


def test_the_marker_leaves_each_format_readable(tmp_path: Path) -> None:
    for name, content in CONTENTS.items():
        write_output(tmp_path / name, content)
    assert json.loads((tmp_path / "a.json").read_text())["a"] == [1, 2]
    ElementTree.parse(tmp_path / "a.svg")


def test_an_empty_file_of_the_users_is_theirs_too(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(typer.BadParameter, match="exists"):
        check_output(tmp_path / "x")


def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    """Neither the spec, nor what it extends, nor a file of its sources, by whatever path."""
    base, child, text = tmp_path / "base.toml", tmp_path / "child.toml", tmp_path / "book.txt"
    text.write_text("once upon a time")
    base.write_text('extends = "tiny"\n')
    source = f'name = "b"\nkind = "files"\npaths = ["{tmp_path}/*.txt"]\nshare = 1\n'
    child.write_text(f'extends = "base.toml"\n[[data.source]]\n{source}')
    (tmp_path / "link.toml").symlink_to(base)
    inputs = inputs_of(load_spec(child))
    for path in (base, child, text, tmp_path / "link.toml"):
        before = path.read_bytes()
        with pytest.raises(typer.BadParameter, match="is an input of this command"):
            write_output(path, "x", inputs, overwrite=True)
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "{spec}", "-o"],
        ["schema", "-o"],
        ["launch", "{spec}", "--backend", "slurm", "--render", "-o"],
        ["data", "stats", "{spec}", "-o"],
        ["tokenizer", "train", "{spec}", "-o"],
    ],
    ids=lambda command: command[0],
)
def test_every_verb_keeps_a_file_of_the_users(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, notes = tmp_path / "mine.toml", tmp_path / "notes"
    spec.write_text('extends = "tiny"\n')
    notes.write_text("mine")
    words = [word.format(spec=spec) for word in command]
    assert main([*words, str(notes)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    if "{spec}" in command:
        assert main([*words, str(spec), "--overwrite"]) == 2
        assert "is an input" in capsys.readouterr().err
        assert spec.read_text() == 'extends = "tiny"\n'
    assert notes.read_text() == "mine"


def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_output(tmp_path / "link", "text\n")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text().startswith("text\n")


def test_a_directory_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["schema", "-o", "/nope/x"]) == 2
    assert "there is no directory /nope" in capsys.readouterr().err
