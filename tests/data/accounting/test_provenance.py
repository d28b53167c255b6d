"""Every token is traced to the document, the file and the line it came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from llamac.cli import main
from llamac.data.accounting.provenance import documents_at, span_text
from llamac.runtime.data.prepared import PreparedDataError, load_manifest
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import Tokenizer
from tests.data.preparing import prepared, write_corpus, write_spec
from tests.runtime.data.test_damage import flip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "web")
    prepared(write_spec(folder), folder / "prepared")
    return folder / "prepared"


def stream(root: Path, split: str) -> tuple[np.ndarray, Tokenizer]:
    manifest = load_manifest(root)
    shards = manifest["sources"][0][split]["shards"]
    files = [np.fromfile(root / shard["file"], manifest["dtype"]) for shard in shards]
    return np.concatenate(files), load_tokenizer_file(root / "tokenizer.model")


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation"])
def test_each_document_is_found_by_any_of_its_tokens(root: Path, split: str) -> None:
    """Its lines stand in the raw file where the index says."""
    tokens, model = stream(root, split)
    ends = np.flatnonzero(tokens == model.eos) + 1
    begins = [0, *ends[:-1].tolist()]
    assert len(ends) > 5
    for number, (begin, end) in enumerate(zip(begins, ends.tolist(), strict=True)):
        for token in {begin, (begin + end) // 2, end - 1}:
            [place] = documents_at(root, "web", token, token + 1, split)
            assert (place.document, place.begin, place.end) == (number, begin, end)
        raw = json.loads(Path(place.file).read_text().splitlines()[place.line - 1])["text"]
        text = model.decode(tokens[begin : end - 1])
        assert set(text.split("\n")) <= set(raw.split("\n"))


def test_a_range_gives_its_documents_in_order_across_parts_and_shards(root: Path) -> None:
    tokens, model = stream(root, "train")
    places = list(documents_at(root, "web", 0, len(tokens)))
    assert [place.document for place in places] == list(range((tokens == model.eos).sum()))
    assert [place.begin for place in places[1:]] == [place.end for place in places[:-1]]
    assert len({place.file for place in places}) == 6
    text = span_text(root, "web", 0, len(tokens))
    assert text == "\n".join(
        model.decode(piece[:-1])
        for piece in np.split(tokens, np.flatnonzero(tokens == model.eos) + 1)[:-1]
    )


def test_what_is_not_there_is_said(root: Path) -> None:
    size = len(stream(root, "train")[0])
    with pytest.raises(PreparedDataError, match=f"has tokens 0 to {size - 1:,} in train"):
        list(documents_at(root, "web", size - 1, size + 1))
    with pytest.raises(PreparedDataError, match=r"unknown source 'wev' in .*; known: web, notes"):
        list(documents_at(root, "wev", 0, 1))


def test_the_command_names_file_and_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(root.parent / "mix.toml")
    assert main(["data", "where", spec, "web", "100:120", "--text"]) == 0
    said = capsys.readouterr().out
    [place, *_] = documents_at(root, "web", 100, 120)
    assert f"document {place.document:,}, tokens {place.begin:,} to {place.end - 1:,}" in said
    assert f"{place.file}:{place.line}" in said
    assert span_text(root, "web", 100, 120) in said
    assert main(["data", "where", spec, "web", "12:x"]) == 2


@pytest.mark.parametrize("kind", ["docs", "names"])
def test_a_damaged_index_is_named_with_the_way_out(root: Path, kind: str, tmp_path: Path) -> None:
    copy = tmp_path / "prepared"
    shutil.copytree(root, copy)
    flip(copy / f"web/train-00000.{kind}")
    with pytest.raises(PreparedDataError, match=rf"train-00000\.{kind} is damaged.*delete"):
        list(documents_at(copy, "web", 0, 1))
    assert list(documents_at(copy, "web", 0, 1, "validation"))
