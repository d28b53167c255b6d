"""Tokens of others as a source, and ours as theirs: there and back, the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llamac.cli import main
from llamac.data.formats import FORMATS
from llamac.runtime.prepared import load_manifest
from llamac.runtime.tokenizer import train_tokenizer

TEXTS = [
    f"Document {i} tells of {i * 7} things: naïve 😀, and\n\tindented lines." for i in range(80)
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, a tokenizer, and prepared data of them."""
    root = tmp_path_factory.mktemp("tokens")
    lines = "\n".join(json.dumps({"text": text}) for text in TEXTS)
    (root / "texts.jsonl").write_text(lines)
    model = train_tokenizer(TEXTS * 5, kind="bpe", vocab_size=340)
    (root / "t.model").write_bytes(model.model)
    files = {"name": "web", "kind": "files", "paths": [f"{root}/texts.jsonl"]}
    assert main(["data", "prepare", *spec(root, "first", files)]) == 0
    return root


def spec(root: Path, directory: str, source: dict[str, object]) -> list[str]:
    written = ",".join(f"{key}={json.dumps(value)}" for key, value in source.items())
    settings = {
        "data.source": f"[{{share=1.0,{written}}}]",
        "data.directory": json.dumps(f"{root}/{directory}"),
        "data.validation": "0.2",
        "tokenizer.path": json.dumps(f"{root}/t.model"),
        "model.vocab_size": "340",
        "batch.sequence_length": "16",
    }
    return ["tiny", *(part for k, v in settings.items() for part in ("--set", f"{k}={v}"))]


def tokens(directory: Path) -> dict[str, list[int]]:
    manifest = load_manifest(directory)
    (source,) = manifest["sources"]
    return {
        split: np.concatenate(
            [np.fromfile(directory / s["file"], manifest["dtype"]) for s in source[split]["shards"]]
        ).tolist()
        for split in ("train", "validation")
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_exported_and_read_again_is_the_same_tokens(made: Path, kind: str) -> None:
    files = {"name": "web", "kind": "files", "paths": [f"{made}/texts.jsonl"]}
    out = made / f"out-{kind}"
    command = ["data", "export", *spec(made, "first", files), "-o", str(out), "--format", kind]
    assert main(command) == 0
    pattern = f"{out}/*.idx" if kind == "megatron" else f"{out}/*.ds"
    source = {"name": "web", "kind": "tokens", "paths": [pattern], "tokenizer": f"{made}/t.model"}
    assert main(["data", "prepare", *spec(made, f"again-{kind}", source)]) == 0
    first, again = tokens(made / "first"), tokens(made / f"again-{kind}")
    assert again == first  # the same documents are held out, for that goes by their text


def test_a_document_of_tokens_is_found_again(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"name": "web", "kind": "files", "paths": [f"{made}/texts.jsonl"]}
    out = made / "placed"
    assert main(["data", "export", *spec(made, "first", files), "-o", str(out)]) == 0
    paths = [f"{out}/web_train.idx"]
    source = {"name": "web", "kind": "tokens", "paths": paths, "tokenizer": f"{made}/t.model"}
    given = spec(made, "where", source)
    assert main(["data", "prepare", *given]) == 0
    capsys.readouterr()
    assert main(["data", "where", given[0], "web", "0", *given[1:]]) == 0
    assert f"{out}/web_train.idx" in capsys.readouterr().out


def test_a_cut_off_file_is_counted_and_the_rest_kept(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"name": "web", "kind": "files", "paths": [f"{made}/texts.jsonl"]}
    out = made / "cut"
    assert main(["data", "export", *spec(made, "first", files), "-o", str(out)]) == 0
    data = (out / "web_train.bin").read_bytes()
    (out / "web_train.bin").write_bytes(data[: len(data) // 2])
    paths = [f"{out}/web_train.idx"]
    source = {"name": "web", "kind": "tokens", "paths": paths, "tokenizer": f"{made}/t.model"}
    assert main(["data", "prepare", *spec(made, "rest", source)]) == 0
    (found,) = load_manifest(made / "rest")["sources"]
    assert found["skipped"]["tokens beyond the end of the file"] > 10
    assert found["train"]["documents"] > 10


def test_export_does_not_write_over(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"name": "web", "kind": "files", "paths": [f"{made}/texts.jsonl"]}
    command = ["data", "export", *spec(made, "first", files), "-o", str(made / "twice")]
    assert main(command) == 0
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            {"name": "web", "kind": "tokens", "paths": ["x.ds"]},
            "needs the `tokenizer` of its files",
        ),
        (
            {"name": "web", "kind": "files", "paths": ["x.txt"], "tokenizer": "t.model"},
            "`tokenizer` has no effect",
        ),
    ],
)
def test_a_source_of_tokens_names_their_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: dict[str, object], said: str
) -> None:
    assert main(["check", *spec(tmp_path, "none", source)]) == 2
    assert said in capsys.readouterr().err
