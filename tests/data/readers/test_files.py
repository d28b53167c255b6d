"""Text, JSON lines and parquet."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from llamac.data.readers import KINDS, reader_for
from llamac.runtime.data.sources.records import PART_BYTES
from llamac.runtime.errors import SourceError
from llamac.spec.data import CONVERSATIONS
from tests.data.readers import read, write


def test_a_text_file_is_a_document(tmp_path: Path) -> None:
    (document,), counts = read("files", write(tmp_path / "a.txt", "\ufeffhello\nworld\n"))
    assert (document.text, document.line, counts) == ("hello\nworld\n", 1, {})


def test_a_long_one_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {number}: žluťoučký kůň.\n\n" for number in range(40_000))
    documents, counts = read("files", write(tmp_path / "a.txt", text))
    assert not counts
    assert "".join(document.text for document in documents) == text
    assert len(documents) > 2
    lines = text.split("\n")
    for document in documents:
        assert len(document.text.encode()) <= 2 * PART_BYTES
        assert lines[document.line - 1] == document.text.partition("\n")[0]


def test_text_that_no_one_can_read_is_counted(tmp_path: Path) -> None:
    assert read("files", write(tmp_path / "a.txt", b"caf\xe9")) == ([], {"invalid UTF-8": 1})
    assert read("files", write(tmp_path / "b.txt", b"a\0b")) == ([], {"NUL in text": 1})
    assert read("files", write(tmp_path / "c.txt", b" \n\t")) == ([], {"empty": 1})


def test_json_lines_give_a_document_for_each_good_record(tmp_path: Path) -> None:
    records = [
        json.dumps({"text": "one", "url": "http://a", "meta": {"language": "en"}, "tags": [1]}),
        '{"text": "two"',
        '{"text": 3}',
        '{"txt": "four"}',
        "",
        '{"text": "\\ud800"}',
        '{"text": "a\\u0000"}',
        "[" * 100_000,
        '{"text": "last", "score": 1e400}',
        "7",
    ]
    lines = "\n".join(records).encode() + b'\n{"text": "caf\xe9"}\n'
    documents, counts = read("files", write(tmp_path / "a.jsonl", lines))
    assert [(document.text, document.line) for document in documents] == [("one", 1), ("last", 9)]
    assert [document.meta for document in documents] == [{"url": "http://a", "language": "en"}, {}]
    assert counts == {
        "invalid JSON": 2,
        "not text": 1,
        "no field 'text'": 2,
        "invalid Unicode": 1,
        "NUL in text": 1,
        "invalid UTF-8": 1,
    }


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CONVERSATIONS])
def test_every_kind_reads_what_a_dump_already_gives_as_text(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"body": "kept", "url": "http://a"}))
    options = {"tokenizer": "none.model"} if kind == "tokens" else {}
    (document,), counts = read(kind, path, text_field="body", **options)
    assert (document.text, document.meta, counts) == ("kept", {"url": "http://a"}, {})


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", None, "three"], "score": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet")
    documents, counts = read("files", tmp_path / "a.parquet")
    assert [(one.text, one.line, one.meta) for one in documents] == [
        ("one", 1, {"score": 1}),
        ("three", 3, {"score": 3}),
    ]
    assert counts == {"not text": 1}
    broken = write(tmp_path / "b.parquet", (tmp_path / "a.parquet").read_bytes()[:-9])
    assert read("files", broken) == ([], {"broken parquet": 1})


def test_a_kind_without_a_reader_is_an_error() -> None:
    with pytest.raises(SourceError, match="no reader for kind 'python-docs'"):
        reader_for("python-docs")
