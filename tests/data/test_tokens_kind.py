"""Tokens of others as a source, and ours as theirs: there and back, the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llamac.cli import main
from llamac.data.readers import tokens as reader
from llamac.data.tokenization.token_formats import FORMATS
from llamac.runtime.data.prepared import load_manifest
from llamac.runtime.data.sources.input_files import file_list, input_bytes
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import EOS, train_tokenizer

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
    settings = {
        "data.source": f"[{toml({'share': 1.0, **source})}]",
        "data.directory": json.dumps(f"{root}/{directory}"),
        "data.validation": "0.2",
        "tokenizer.path": json.dumps(f"{root}/t.model"),
        "model.vocab_size": "340",
        "batch.sequence_length": "16",
    }
    return ["tiny", *(part for k, v in settings.items() for part in ("--set", f"{k}={v}"))]


def toml(value: object) -> str:
    """Inline, on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {toml(inner)}' for key, inner in value.items())}}}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


def tokens(directory: Path) -> dict[str, list[int]]:
    manifest = load_manifest(directory)
    (source,) = manifest["sources"]
    return {
        split: np.concatenate(
            [np.fromfile(directory / s["file"], manifest["dtype"]) for s in source[split]["shards"]]
        ).tolist()
        for split in ("train", "validation")
    }


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_glob_may_match_the_files_beside_them_too(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"name": "web", "kind": "files", "paths": [f"{made}/texts.jsonl"]}
    out = made / "both"
    for kind in FORMATS:
        command = ["data", "export", *spec(made, "first", files), "-o", str(out), "--format", kind]
        assert main(command) == 0
    source = {"name": "web", "kind": "tokens", "paths": [f"{out}/*"], "tokenizer": "t.model"}
    names = ["web_train.ds", "web_train.idx", "web_validation.ds", "web_validation.idx"]
    assert file_list(source) == [f"{out}/{name}" for name in names]
    assert main(["data", "prepare", *spec(made, "none", {**source, "paths": [f"{out}/*.bin"]})])
    assert f"no .idx or .ds file matches '{out}/*.bin'" in capsys.readouterr().err


def bytewise(text: str) -> list[int]:
    """Tokens of a text that no tokenizer makes: each byte its piece. They follow unk, bos, eos."""
    return [3 + byte for byte in text.encode()]


def write_ds(path: Path, documents: list[list[int]]) -> str:
    whole = [[*tokens, EOS] for tokens in documents]
    path.write_bytes(np.concatenate(whole).astype("<u2").tobytes())
    ends = np.cumsum([len(tokens) for tokens in whole])
    path.with_name(path.name + ".index").write_bytes(ends.astype("<u8").tobytes())
    return str(path)


def documents_in(directory: Path) -> list[list[int]]:
    """Of both splits, without EOS, in no order."""
    streams = tokens(directory).values()
    ends = [np.flatnonzero(np.array(stream) == EOS) + 1 for stream in streams]
    found = [
        piece.tolist()[:-1]
        for stream, at in zip(streams, ends, strict=True)
        for piece in np.split(np.array(stream), at)[:-1]
    ]
    return sorted(found)


@pytest.mark.slow
def test_another_cut_into_pieces_stays_as_it_is(made: Path) -> None:
    given = [bytewise(text) for text in TEXTS]
    path = write_ds(made / "bytewise.ds", given)
    source = {"name": "web", "kind": "tokens", "paths": [path], "tokenizer": f"{made}/t.model"}
    assert main(["data", "prepare", *spec(made, "bytewise", source)]) == 0
    assert documents_in(made / "bytewise") == sorted(given)


@pytest.mark.slow
def test_of_another_vocabulary_the_text_is_tokenised(made: Path) -> None:
    path = write_ds(made / "theirs.ds", [bytewise(text) for text in TEXTS])
    theirs = made / "theirs.model"
    theirs.write_bytes(train_tokenizer(TEXTS * 5, kind="bpe", vocab_size=330).model)
    source = {"name": "web", "kind": "tokens", "paths": [path], "tokenizer": str(theirs)}
    assert main(["data", "prepare", *spec(made, "theirs", source)]) == 0
    assert tokens(made / "theirs") == tokens(made / "first")


@pytest.mark.slow
def test_text_that_a_stage_has_changed_is_tokenised(made: Path) -> None:
    comment = "# Copyright of somebody\n\n"
    first, *rest = TEXTS
    given = [bytewise(comment + first), *map(bytewise, rest)]
    source = {
        "name": "web",
        "kind": "tokens",
        "paths": [write_ds(made / "code.ds", given)],
        "tokenizer": f"{made}/t.model",
        "stage": [{"stage": "header_comments"}],
    }
    assert main(["data", "prepare", *spec(made, "code", source)]) == 0
    changed = load_tokenizer_file(made / "t.model").encode(first).tolist()
    assert documents_in(made / "code") == sorted([changed, *map(bytewise, rest)])


@pytest.mark.slow
def test_tokens_outside_the_vocabulary_are_counted(made: Path) -> None:
    given = [bytewise(text) for text in TEXTS]
    given[5:7] = [[9, 340, 9], [2**16 - 1]]
    path = write_ds(made / "outside.ds", given)
    source = {"name": "web", "kind": "tokens", "paths": [path], "tokenizer": f"{made}/t.model"}
    assert main(["data", "prepare", *spec(made, "outside", source)]) == 0
    (found,) = load_manifest(made / "outside")["sources"]
    assert found["skipped"] == {"tokens outside the vocabulary": 2}
    assert documents_in(made / "outside") == sorted([*given[:5], *given[7:]])


@pytest.mark.slow
def test_another_tokenizer_in_the_same_file_is_noticed(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = write_ds(made / "same.ds", [*map(bytewise, TEXTS)]), made / "same.model"
    source = {"name": "web", "kind": "tokens", "paths": [path], "tokenizer": str(model)}
    model.write_bytes((made / "t.model").read_bytes())
    assert main(["data", "prepare", *spec(made, "same", source)]) == 0
    model.write_bytes(train_tokenizer(TEXTS * 5, kind="bpe", vocab_size=330).model)
    reader._load.cache_clear()  # as a process of its own would find it
    assert main(["data", "prepare", *spec(made, "same", source)]) == 2
    assert "data.source.web.tokenizer: the pieces" in capsys.readouterr().err


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert "already exists" in capsys.readouterr().err


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


def test_an_index_counts_with_its_tokens(tmp_path: Path) -> None:
    """So that parts are of about one size: the index is a small part of what is read."""
    (tmp_path / "x.idx").write_bytes(bytes(50))
    assert input_bytes(str(tmp_path / "x.idx")) == 50
    (tmp_path / "x.bin").write_bytes(bytes(700))
    assert input_bytes(str(tmp_path / "x.idx")) == 750


@pytest.mark.slow
def test_ends_inside_documents_of_others_end_documents(made: Path) -> None:
    model = load_tokenizer_file(made / "t.model")
    texts = [model.encode(text).tolist() for text in TEXTS[:20]]
    joined = [[*a, EOS, *b, EOS] for a, b in zip(texts[::2], texts[1::2], strict=True)]
    np.concatenate(joined).astype("<u2").tofile(made / "joined.ds")
    np.cumsum([len(document) for document in joined]).astype("<u8").tofile(made / "joined.ds.index")
    source = {"name": "web", "kind": "tokens", "paths": [f"{made}/joined.ds"]}
    source["tokenizer"] = f"{made}/t.model"
    assert main(["data", "prepare", *spec(made, "joined", source)]) == 0
    (entry,) = load_manifest(made / "joined")["sources"]
    found = tokens(made / "joined")
    for split in ("train", "validation"):
        assert entry[split]["documents"] == found[split].count(EOS)
    assert sum(entry[split]["documents"] for split in found) == 20
