"""Preparing: text in, shards and a manifest out; the same bytes whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamac.runtime.data import token_shards
from llamac.runtime.data.token_shards import PreparedDataMismatch, prepare, prepare_for_ranks
from llamac.runtime.distributed.ranks import Ranks
from llamac.runtime.errors import RunError, SourceError
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import TokenizerError

VOCAB = 320


def arguments(texts: Path, **changes: Any) -> dict[str, Any]:
    return {
        "sources": [
            {"name": "a", "kind": "files", "share": 3, "paths": (str(texts / "a.jsonl"),)},
            {"name": "b", "kind": "files", "share": 1, "paths": (str(texts / "b.jsonl"),)},
        ],
        "tokenizer": {"kind": "bpe", "train_bytes": 20_000, "path": None},
        "vocab_size": VOCAB,
        "validation": 0.1,
        "shard_tokens": 5000,
        "seed": 1,
    } | changes


def tokens(root: Path, manifest: dict[str, Any], source: int, split: str) -> np.ndarray:
    names = [shard["file"] for shard in manifest["sources"][source][split]["shards"]]
    return np.concatenate([np.fromfile(root / name, manifest["dtype"]) for name in names])


def tree(root: Path) -> dict[str, bytes]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".verified.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_every_document_is_in_one_split_whole_and_in_order(texts: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    manifest = prepare(root, **arguments(texts))
    vocabulary = load_tokenizer_file(root / "tokenizer.model")
    documents = [json.loads(line)["text"] for line in (texts / "a.jsonl").open()]
    found = {}
    for split in ("train", "validation"):
        stream = tokens(root, manifest, 0, split)
        ends = np.flatnonzero(stream == vocabulary.eos)
        assert ends[-1] == len(stream) - 1
        parts = [vocabulary.decode(part) for part in np.split(stream, ends + 1)[:-1]]
        assert parts == [text for text in documents if text in set(parts)]
        found[split] = parts
    assert sorted(found["train"] + found["validation"]) == sorted(documents)
    assert 10 < len(found["validation"]) < 60


def test_entropy_is_in_nats() -> None:
    assert token_shards.entropy(np.array([2, 0, 1, 1])) == pytest.approx(1.0397208)  # 1.5 bits
    assert token_shards.entropy(np.array([0, 9])) == 0
    assert token_shards.entropy(np.ones(256)) == pytest.approx(5.5451774)  # 8 bits


def test_the_manifest_counts_what_is_there(texts: Path, tmp_path: Path) -> None:
    manifest = prepare(tmp_path / "data", **arguments(texts))
    distributions = []
    for number, source in enumerate(manifest["sources"]):
        for split in ("train", "validation"):
            stream, stats = tokens(tmp_path / "data", manifest, number, split), source[split]
            assert stats["tokens"] == len(stream)
            assert stats["documents"] == (stream == manifest["tokenizer"]["eos"]).sum()
            assert stats["bytes_per_token"] == stats["bytes"] / stats["tokens"]
            full = [shard["tokens"] for shard in stats["shards"][:-1]]
            assert set(full) <= {5000}
            for shard in stats["shards"]:
                data = (tmp_path / "data" / shard["file"]).read_bytes()
                assert shard["sha256"] == hashlib.sha256(data).hexdigest()
        p = np.bincount(tokens(tmp_path / "data", manifest, number, "train"), minlength=VOCAB)
        distributions.append(p / p.sum())
        entropy = source["train"]["unigram_entropy"]
        assert entropy == pytest.approx(token_shards.entropy(distributions[-1]))
    size = os.path.getsize(texts / "a.jsonl")
    assert 0 < sum(manifest["sources"][0][s]["bytes"] for s in ("train", "validation")) < size
    mixed = 0.75 * distributions[0] + 0.25 * distributions[1]
    assert manifest["unigram_entropy"] == pytest.approx(token_shards.entropy(mixed))
    assert [source["share"] for source in manifest["sources"]] == [0.75, 0.25]
    assert manifest["dtype"] == "<u2"
    assert manifest["tokenizer"]["lossless"] is True


def test_entropy_of_a_half_and_two_quarters_is_one_and_a_half_bits() -> None:
    assert token_shards.entropy(np.array([2, 0, 1, 1])) == pytest.approx(1.0397207708)


def test_a_prepared_directory_is_reused_untouched(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(tmp_path / "data", **arguments(texts))
    prepare(tmp_path / "data", **arguments(texts))  # notes that the shards are whole
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    monkeypatch.setattr(token_shards, "documents", None)  # would fail if anything were read
    assert prepare(tmp_path / "data", **arguments(texts)) == first
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["replace", "fsync"])
def test_killed_anywhere_it_ends_with_the_same_bytes(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    settings = arguments(texts, tokenizer={"kind": "bpe", "train_bytes": 5000})
    prepare(tmp_path / "whole", **settings)
    expected, real = tree(tmp_path / "whole"), getattr(os, operation)
    for deaths in range(1, 100):
        calls = 0

        def dying(*args: Any, fatal: int = deaths) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal:
                raise KeyboardInterrupt
            return real(*args)

        root = tmp_path / f"killed-{deaths}"
        with monkeypatch.context() as patch:
            patch.setattr(os, operation, dying)
            try:
                prepare(root, **settings)
                break
            except KeyboardInterrupt:
                pass
        prepare(root, **settings)
        assert tree(root) == expected
    assert deaths > 15


def test_finished_work_is_not_done_again(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(stage: str, _: int) -> None:
        if stage == "tokenizing b":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "data", **arguments(texts), progress=stop)
    stages: list[str] = []
    prepare(tmp_path / "data", **arguments(texts), progress=lambda stage, _: stages.append(stage))
    assert {stage for stage in stages if stage.startswith("tokenizing")} == {"tokenizing b"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 2}, "seed: 1 before, 2 now"),
        ({"vocab_size": 330}, "model.vocab_size: 320 before, 330 now"),
        ({"validation": 0.2}, "data.validation: 0.1 before, 0.2 now"),
        ({"shard_tokens": 9}, "data.shard_tokens: 5000 before, 9 now"),
        ({"tokenizer": {"kind": "unigram", "train_bytes": 20_000}}, "tokenizer.kind: 'bpe' before"),
        ({"tokenizer": {"path": "x.model"}}, "tokenizer.path: 'not set' before, 'x.model' now"),
    ],
)
def test_other_settings_are_refused_by_name(
    texts: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    prepare(tmp_path / "data", **arguments(texts))
    before = tree(tmp_path / "data")
    with pytest.raises(PreparedDataMismatch) as caught:
        prepare(tmp_path / "data", **arguments(texts, **changes))
    assert told in str(caught.value)
    assert "set data.directory" in str(caught.value)
    assert tree(tmp_path / "data") == before


def test_a_changed_source_is_refused_by_name(texts: Path, tmp_path: Path) -> None:
    settings = arguments(texts)
    prepare(tmp_path / "data", **settings)
    settings["sources"][1]["share"] = 2
    with pytest.raises(
        PreparedDataMismatch, match=r"data\.source\.b\.share: 0\.25 before, 0\.4 now"
    ):
        prepare(tmp_path / "data", **settings)
    doubled = arguments(texts)
    for source in doubled["sources"]:
        source["share"] *= 2  # weights: only their ratios count
    prepare(tmp_path / "data", **doubled)


def test_changed_files_are_refused_but_missing_ones_are_not_needed(
    texts: Path, tmp_path: Path
) -> None:
    first = prepare(tmp_path / "data", **arguments(texts))
    with (texts / "a.jsonl").open("a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(PreparedDataMismatch, match=r"data\.source\.a\.paths: the files have"):
        prepare(tmp_path / "data", **arguments(texts))
    (texts / "a.jsonl").unlink()
    assert prepare(tmp_path / "data", **arguments(texts)) == first


def test_held_out_documents_stay_when_others_come_and_equal_ones_stay_together(
    texts: Path, tmp_path: Path
) -> None:
    lines = (texts / "b.jsonl").read_text()
    (texts / "b.jsonl").write_text(lines + (texts / "a.jsonl").read_text() + lines)
    manifest = prepare(tmp_path / "data", **arguments(texts))
    a, b = (source["validation"]["documents"] for source in manifest["sources"])
    only_b = b - a  # twice the same
    assert only_b % 2 == 0
    assert 0 < only_b // 2 < 50


def test_the_tokenizer_never_sees_held_out_text(texts: Path, tmp_path: Path) -> None:
    """Half the documents are held out; a vocabulary of the other half alone is the same one."""
    settings = arguments(texts, validation=0.5, tokenizer={"kind": "bpe", "train_bytes": 10**6})
    prepare(tmp_path / "data", **settings)
    job = token_shards.PrepareJob(tmp_path, **settings, progress=lambda stage, done: None)
    for path in texts.iterdir():
        lines = path.read_text().splitlines(keepends=True)
        kept = [x for x in lines if not job.is_held_out(json.loads(x)["text"].encode())]
        path.write_text("".join(kept))
    prepare(tmp_path / "kept", **settings)
    models = [tmp_path / name / "tokenizer.model" for name in ("data", "kept")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_an_existing_model_is_used_as_it_is(texts: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "first", **arguments(texts))
    model = tmp_path / "first" / "tokenizer.model"
    roomy = arguments(texts, tokenizer={"path": str(model)}, vocab_size=70_000)
    manifest = prepare(tmp_path / "data", **roomy)
    assert (tmp_path / "data" / "tokenizer.model").read_bytes() == model.read_bytes()
    assert manifest["dtype"] == "<u4"
    tight = arguments(texts, tokenizer={"path": str(model)}, vocab_size=VOCAB - 1)
    with pytest.raises(TokenizerError, match=r"has token ids up to 319, .* at least 320"):
        prepare(tmp_path / "tight", **tight)


def test_a_missing_model_is_named_but_not_needed_by_finished_data(
    texts: Path, tmp_path: Path
) -> None:
    model = tmp_path / "x.model"
    settings = arguments(texts, tokenizer={"path": str(model)})
    with pytest.raises(TokenizerError, match=rf"cannot read the tokenizer {model}: No such"):
        prepare(tmp_path / "data", **settings)
    prepare(tmp_path / "first", **arguments(texts))
    model.write_bytes((tmp_path / "first" / "tokenizer.model").read_bytes())
    manifest = prepare(tmp_path / "data", **settings)
    model.unlink()
    assert prepare(tmp_path / "data", **settings) == manifest
    model.write_bytes(b"nothing")
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        prepare(tmp_path / "data", **settings)


def test_what_was_skipped_is_said_and_in_the_manifest(texts: Path, tmp_path: Path) -> None:
    with (texts / "a.jsonl").open("a") as file:
        file.write("broken\n{}\n")
    (texts / "b.jsonl").open("a").write('{"text": " "}\n')  # no text is lost with it: not said
    said: list[str] = []
    progress = lambda stage, _: said.append(stage)  # noqa: E731
    source = prepare(tmp_path / "data", **arguments(texts), progress=progress)["sources"][0]
    assert [line for line in said if "skipped 1" in line] == [
        "source 'a': skipped 1 × invalid JSON, 1 × no field 'text'; "
        f"the first are listed in {tmp_path / 'data' / 'manifest.json'}"
    ]
    assert source["skipped"] == {"invalid JSON": 1, "no field 'text'": 1}
    assert source["skipped_examples"][0] == f"{texts}/a.jsonl:301: invalid JSON"


def test_a_source_without_documents_says_why(texts: Path, tmp_path: Path) -> None:
    settings = arguments(texts)
    (texts / "b.jsonl").write_text("broken\n")
    with pytest.raises(
        SourceError, match=r"'b' has no document .*1 × invalid JSON.*\n.*b\.jsonl:1"
    ):
        prepare(tmp_path / "data", **settings)
    (texts / "b.jsonl").write_text('{"text": "alone"}\n')
    with pytest.raises(
        SourceError, match=r"all 300 were held out for validation: lower data\.validation"
    ):
        prepare(tmp_path / "held", **arguments(texts, validation=0.999999999))
    (texts / "a.jsonl").write_text('{"text": "alone"}\n')
    with pytest.raises(SourceError, match=r"all 1 were held out for validation: add documents"):
        prepare(tmp_path / "one", **arguments(texts, validation=0.999999999))


def test_files_that_are_not_ours_stay(texts: Path, tmp_path: Path) -> None:
    """Someone may keep the raw text of source `a` in the very directory its shards go to."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "book.txt").write_text("mine")
    (tmp_path / "data" / "a" / "train-00099.bin").write_text("of a killed run")
    prepare(tmp_path / "data", **arguments(texts))
    assert (tmp_path / "data" / "a" / "book.txt").read_text() == "mine"
    assert not (tmp_path / "data" / "a" / "train-00099.bin").exists()


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "manifest.json", "b"])
def test_a_source_name_must_be_its_own_directory(texts: Path, tmp_path: Path, name: str) -> None:
    settings = arguments(texts)
    settings["sources"][0]["name"] = name
    with pytest.raises(SourceError, match="names become directories"):
        prepare(tmp_path / "data", **settings)
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_the_text_every_python_carries_is_enough(tmp_path: Path) -> None:
    """The embedded default of `llamac train specs/tiny.toml`, in small."""
    kinds = ("python-docs", "python-source")
    settings = arguments(
        tmp_path,
        sources=[{"name": k, "kind": k, "share": 1, "max_bytes": 300_000} for k in kinds],
        tokenizer={"kind": "bpe", "train_bytes": 200_000},
        vocab_size=600,
    )
    manifest = prepare(tmp_path / "data", **settings)
    for source in manifest["sources"]:
        assert source["train"]["tokens"] > 50_000
        assert 4 < source["train"]["unigram_entropy"] < np.log(600)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("another seed", "not the data that rank 0 reads: let"),
        ("nothing there", "no manifest.json"),
    ],
)
def test_a_node_with_other_data_than_rank_0_is_named(
    texts: Path, tmp_path: Path, fault: str, message: str
) -> None:
    first, own = tmp_path / "rank 0", tmp_path / "own"
    theirs = prepare(first, **arguments(texts))

    class SecondNode(Ranks):
        """Ranks of a node with its own disk, where rank 0's work happens elsewhere."""

        def on_first(self, work: Any) -> Any:
            return theirs

    assert prepare_for_ranks(SecondNode(), first) == theirs
    if fault == "another seed":
        prepare(own, **arguments(texts, seed=2))
    with pytest.raises(RunError, match=re.escape(message)) as raised:
        prepare_for_ranks(SecondNode(), own)
    assert socket.gethostname() in str(raised.value)
    assert "one shared directory" in str(raised.value)
