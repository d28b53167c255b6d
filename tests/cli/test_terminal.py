"""Documents that hold terminal escapes are shown as text by the commands that show documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamac.cli import main

STEERING = "\x1b]0;title\x07 and \x1b[31mred\x9b2J"


@pytest.fixture
def spec(tmp_path: Path) -> list[str]:
    """Prepared data of documents that steer terminals, in a file whose name does."""
    texts = [f"Document {i} {STEERING}, and some words of number {i * 7}." for i in range(60)]
    file = tmp_path / "web\x1b[5m.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    stage = '{stage = "length", min_chars = 60}'
    settings = {
        "data.source": f'[{{name = "web", kind = "files", share = 1.0, paths = ["{tmp_path}/*"], '
        f"stage = [{stage}]}}]",
        "data.directory": json.dumps(f"{tmp_path}/data"),
        "data.validation": "0.2",
        "tokenizer.train_bytes": "10_000",
        "model.vocab_size": "320",
        "batch.sequence_length": "16",
    }
    options = ["tiny", *(part for k, v in settings.items() for part in ("--set", f"{k}={v}"))]
    assert main(["data", "prepare", *options]) == 0
    return options


@pytest.mark.slow
def test_documents_are_shown_without_their_escapes(
    spec: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for command in (
        ["data", "where", *spec, "web", "0:40", "--text"],
        ["data", "stats", *spec, "--samples"],
        ["tokenizer", "explain", STEERING],
    ):
        assert main(command) == 0
        said = capsys.readouterr().out
        assert r"\x1b]0;title\x07" in said.replace(" ", "")
        assert not {"\x1b", "\x07", "\x9b"} & set(said)
    assert main(["data", "stats", *spec, "--json"]) == 0
    samples = json.loads(capsys.readouterr().out)[0]["steps"][-1]["samples"]
    assert STEERING in samples[""][0]["text"]


def test_errors_name_files_without_their_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", "explain", "a", "--tokenizer", f"{tmp_path}/\x1b[31m.model"]) == 2
    said = capsys.readouterr().err
    assert r"\x1b[31m.model" in said
    assert "\x1b" not in said
