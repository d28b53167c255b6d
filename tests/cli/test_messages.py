"""What is said of slips on the command line, and what programs get to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamac.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("launch tiny --backend k8s", "'k8s' is not one of local, slurm, kubernetes, skypilot; "),
        ("launch tiny --backend k8s", "did you mean kubernetes?"),
        ("inspect tiny --format png", "text, python, json, dot, svg, html; did you mean svg?"),
        ("check tiny --set hardware.device=gpu", 'did you mean "cuda"?'),
        ("check tiny --set device=gpu", "`device` belongs in [hardware]"),
        ("check tny", "did you mean tiny?"),
        ('check tiny --set optimizer.lr="1e-3"', "help: write 1e-3 without quotes"),
        ("train tiny --resume /nope", "there is no checkpoint /nope: give auto, never, or"),
        ("train tiny --nproc 0", "--nproc': must be 1 or more"),
        ("schema -o /nope/x", "there is no directory /nope"),
        ("data", "llamac data: give a command: prepare, classifier, stats, epochs, export, where"),
        ("tokenizer", "llamac tokenizer: give a command: train, compare, explain"),
        ("data epoch tiny", "llamac data: there is no command 'epoch'; did you mean epochs?"),
        ("data epochs tiny --jsn", "Try: llamac data epochs --help"),
    ],
)
def test_a_slip_is_one_line_and_the_way_out(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Value error" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\ndim = 1\n[batch]\n[model]\n", "the table [model] is already defined, in line 1"),
        ("[model]\ndim = 1\ndim = 2\n", "this key is already set"),
    ],
)
def test_what_stands_twice_is_named(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text(text)
    assert main(["check", str(tmp_path / "run.toml")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", ["check -h", "data -h", "data stats -h", "help data", "plan -h"])
def test_help_is_there_in_every_spelling(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 0
    assert capsys.readouterr().out.startswith("Usage: llamac")


def test_a_misspelt_file_beside_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text('extends = "tiny"')
    assert main(["check", str(tmp_path / "mien.toml")]) == 2
    assert f"did you mean {tmp_path / 'mine.toml'}?" in capsys.readouterr().err
    assert main(["check", str(tmp_path)]) == 2
    assert f"name a file in it: {tmp_path / 'mine.toml'}" in capsys.readouterr().err


@pytest.mark.slow
def test_verify_and_epochs_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "epochs", "tiny", "--run", "/nowhere", "--json"]) == 0
    (docs, source) = json.loads(capsys.readouterr().out)
    assert (docs["name"], source["name"]) == ("python-docs", "python-source")
    assert docs["unique"] is None
    assert main(["verify", "tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verified"]
    assert found["stages"][0]["stage"] == "lower"
    assert found["stages"][0]["errors"]["loss"] < 1e-9
