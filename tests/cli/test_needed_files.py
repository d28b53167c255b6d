"""`check` and `train` find what cannot run before anything runs: all at once, with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamac.cli import main

SPEC = """extends = "tiny"
[model]
dmi = 3
[tokenizer]
path = "gone.model"
[[data.source]]
name = "a"
kind = "files"
paths = ["none/*.txt", "page.html", "s3://bucket/x.txt"]
share = 1
[[data.source]]
name = "b"
kind = "files"
paths = ["rows.jsonl"]
text_field = "body"
share = 1
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"content": "words"}\n')
    (tmp_path / "page.html").write_text("<p>")
    (tmp_path / "run.toml").write_text(SPEC)
    return tmp_path / "run.toml"


def test_check_says_all_at_once_with_places(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(spec)]) == 2
    said = capsys.readouterr().err
    for line, message in (
        (3, "`dmi` is not a key of [model]"),
        (5, f"there is no tokenizer {spec.parent}/gone.model"),
        (9, f"no file matches '{spec.parent}/none/*.txt'"),
        (9, "page.html: cannot read this kind of file"),
        (9, "is remote"),
        (15, "has no field or column 'body'; set the source's text_field to one of content"),
    ):
        found = [one for one in said.split("\n\n") if f"run.toml:{line}:" in one and message in one]
        assert len(found) == 1, (message, said)
    assert said.count("error:") == 6
    assert "relative to the spec" in said


def test_check_as_json_has_the_errors(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(spec), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert not found["valid"]
    assert [error["line"] for error in found["errors"]] == [3, 5, 9, 9, 9, 15]


def test_check_may_leave_files_elsewhere_alone(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec.write_text(SPEC.replace("dmi = 3\n", ""))
    assert main(["check", str(spec), "--elsewhere", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["valid"], found["parameters"], found["missing"]) == (True, 6_917_376, [])


def test_files_of_shipped_specs_are_only_noted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "65b"]) == 0
    said = capsys.readouterr().out
    assert "  not here    source common_crawl: no file matches" in said
    assert ", and 6 more\n" in said


def test_train_refuses_before_it_writes(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec.write_text(SPEC.replace("dmi = 3\n", ""))
    assert main(["train", str(spec), "-o", str(spec.parent / "run")]) == 2
    assert "run.toml:4:8: error: there is no tokenizer" in capsys.readouterr().err
    assert not (spec.parent / "run").exists()


def test_check_names_what_llama_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["model.tied_embeddings=true", "model.bias=true"]
    changes += ["model.rope_scaling={kind='linear', factor=8}"]
    assert main(["check", "tiny", *(f"--set={change}" for change in changes)]) == 0
    said = capsys.readouterr().out
    assert "vocabulary 4,096, tied embeddings, biases, rope scaled 8× (linear)\n" in said
    assert "  parameters  5,884,928\n" in said
    assert main(["check", "tiny", "--set=model.bias=qkv", "--set=model.qk_norm=true"]) == 0
    assert "vocabulary 4,096, biases of q, k and v, norms of q and k\n" in capsys.readouterr().out


def test_check_knows_what_a_kind_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dump.pdf").write_bytes(b"x")
    source = '[[data.source]]\nname = "w"\nkind = "wikipedia"\nshare = 1\npaths = ["dump.pdf"]\n'
    (tmp_path / "run.toml").write_text(f'extends = "tiny"\n{source}')
    assert main(["check", str(tmp_path / "run.toml")]) == 2
    told = capsys.readouterr().err
    assert "run.toml:6:10: error: source w:" in told
    assert (
        "dump.pdf: cannot read this kind of file. Names of kind = 'wikipedia' end in .xml" in told
    )


def test_prepare_says_which_line_cannot_be_read(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = SPEC.replace("dmi = 3", "dim = 64").replace('path = "gone.model"', 'kind = "bpe"')
    spec.write_text(good.replace('paths = ["none/*.txt", "page.html"', 'paths = ["page.html"'))
    assert main(["data", "prepare", str(spec), "--run", str(spec.parent / "run")]) == 2
    told = capsys.readouterr().err
    assert "run.toml:9: source 'a': " in told
    assert (
        'page.html: cannot read this kind of file (kind = "commoncrawl" or "c4" reads it)' in told
    )
    assert not (spec.parent / "run").exists()


def test_check_knows_the_names_of_a_dump_s_parts(tmp_path: Path) -> None:
    from llamac.data.readers import input_paths
    from llamac.spec.data import Source

    names = ["enwiki-latest-pages-articles1.xml-p1p41242.bz2", "a.xml-p000000010p000030302-cut.bz2"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    source = Source(name="w", kind="wikipedia", share=1, paths=(f"{tmp_path}/*",))
    assert len(input_paths(source)) == len(names)
