"""The readers: every document once, in order; what is broken is counted, never fatal."""

from __future__ import annotations

import gzip
import json
import random
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from llamac.runtime.data.sources import decompress, records
from llamac.runtime.data.sources import source_documents as module
from llamac.runtime.data.sources.input_files import file_list, input_fingerprint
from llamac.runtime.data.sources.source_documents import Skipped, documents
from llamac.runtime.errors import SourceError


def read(*paths: Path | str, **more: Any) -> tuple[list[str], Skipped]:
    skipped = Skipped()
    source = {"kind": "files", "paths": [str(path) for path in paths], **more}
    return list(documents(source, skipped)), skipped


def json_lines(*texts: str, key: str = "text") -> bytes:
    return b"".join(json.dumps({key: text}).encode() + b"\n" for text in texts)


@pytest.mark.slow
def test_python_docs_are_topics_and_docstrings() -> None:
    texts = list(documents({"kind": "python-docs"}))
    assert texts == list(documents({"kind": "python-docs"}))
    module_of = {text.split("\n")[0]: text for text in texts}
    argparse = module_of["module argparse"]
    assert "Object for parsing command line strings into Python objects." in argparse
    assert "\n\nclass argparse.ArgumentParser\n\n" in argparse
    assert not any(name.startswith("module test.") for name in module_of)
    assert len(texts) > 200


def test_python_source_is_the_code_of_the_standard_library() -> None:
    texts = list(documents({"kind": "python-source"}))
    assert texts == list(documents({"kind": "python-source"}))
    assert Path(json.__file__).read_text() in texts
    assert len(texts) > 200


def test_a_python_without_its_library_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(SourceError, match=r"no Python source under .*kind 'files'"):
        next(documents({"kind": "python-source"}))
    (tmp_path / "broken.py").write_bytes(b"def f(: \xff\n")
    (tmp_path / "empty.py").write_bytes(b"\n")
    (tmp_path / "whole.py").write_bytes(b'"""Says\n    it."""\ndef f(a, *, b=1):\n  "Does it."\n')
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "case.py").write_bytes(b"pass\n")
    skipped = Skipped()
    assert len(list(documents({"kind": "python-source"}, skipped))) == 1
    assert skipped.examples == ["broken: unreadable module", "empty: empty"]

    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)  # as on Debian's smaller packages
    assert module._python_docs.__wrapped__() == (
        "module whole\n\nSays\nit.\n\n\nwhole.f(a, *, b=1)\n\nDoes it.\n",
    )
    (tmp_path / "whole.py").write_bytes(b"pass\n")
    with pytest.raises(SourceError, match="has no documentation"):
        module._python_docs.__wrapped__()


def test_max_bytes_stops_after_a_whole_document(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(json_lines("äb", "cd", "ef"))
    assert read(tmp_path / "x.jsonl", max_bytes=3)[0] == ["äb"]
    assert read(tmp_path / "x.jsonl", max_bytes=4)[0] == ["äb", "cd"]
    code = {"kind": "python-source", "max_bytes": 100_000}
    assert 100_000 <= sum(len(text.encode()) for text in documents(code)) < 1_000_000


def test_files_are_read_once_each_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.md", "deep/c.txt"):
        (tmp_path / name).write_text(name)
    expected = ["a.md", "b.txt", "deep/c.txt"]
    assert read(tmp_path / "**/*.txt", tmp_path / "*.md", tmp_path / "b.*")[0] == expected


def test_every_format_gives_the_same_text(tmp_path: Path) -> None:
    text = "one\r\n two \u2581\x01 é 😀\n"
    (tmp_path / "x.txt").write_bytes(text.encode())
    (tmp_path / "x.md").write_bytes(b"\xef\xbb\xbf" + text.encode())  # a byte order mark
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "x.txt.zst").write_bytes(zstandard.compress(text.encode()))
    lines = json_lines(text)
    (tmp_path / "x.jsonl").write_bytes(lines.rstrip())
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "x.jsonl.zst").write_bytes(zstandard.compress(lines))
    table = pyarrow.table({"other": [1], "text": [text]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    texts, skipped = read(tmp_path / "x.*")
    assert texts == [text] * 8
    assert not skipped.counts


def test_compressed_files_may_have_several_frames(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    (tmp_path / "b.txt.zst").write_bytes(zstandard.compress(b"one ") + zstandard.compress(b"two"))
    assert read(tmp_path / "*")[0] == ["one two"] * 2


def test_the_text_field_is_the_one_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(json_lines("a", key="body") + json_lines("b"))
    pyarrow.parquet.write_table(pyarrow.table({"body": ["c", None]}), tmp_path / "x.parquet")
    texts, skipped = read(tmp_path / "*", text_field="body")
    assert texts == ["a", "c"]
    assert skipped.counts == {"no field 'body'": 1, "not text": 1}


def test_bad_lines_are_skipped_counted_and_located(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [
        b'{"text": "first"}',
        b'{"text": "half',
        b'{"text": "\xff"}',
        b"[1]",
        b'{"text": 3}',
        b'{"text": " "}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
        b"",
        b'{"text": "last"}',
    ]
    path.write_bytes(b"\n".join(lines))
    texts, skipped = read(path)
    assert texts == ["first", "last"]
    assert skipped.examples == [
        f"{path}:2: invalid JSON",
        f"{path}:3: invalid UTF-8",
        f"{path}:4: no field 'text'",
        f"{path}:5: not text",
        f"{path}:6: empty",
        f"{path}:7: invalid Unicode",
        f"{path}:8: invalid JSON",
    ]
    assert skipped.counts.total() == 7


def test_a_line_too_long_to_hold_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompress, "LINE_BYTES", 50)
    path = tmp_path / "x.jsonl"
    path.write_bytes(json_lines("a", "b" * 500, "c"))
    texts, skipped = read(path)
    assert texts == ["a", "c"]
    assert skipped.examples == [f"{path}:2: line too long"]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["truncated", "garbled", "not compressed"])
def test_a_broken_archive_is_counted_and_what_came_before_is_kept(
    tmp_path: Path, suffix: str, damage: str
) -> None:
    random_text = random.Random(0).randbytes(400_000).hex()
    parts = [random_text[i : i + 1000] for i in range(0, len(random_text), 1000)]
    parts *= 4  # more than is decompressed at a time
    data = json_lines(*parts)
    packed = bytearray(gzip.compress(data) if suffix == "gz" else zstandard.compress(data))
    half = len(packed) // 2
    if damage == "truncated":
        packed = packed[:half]
    elif damage == "garbled":
        packed[half:] = bytes(len(packed) - half)
    else:
        packed = bytearray(b"hello")
    path = tmp_path / f"x.jsonl.{suffix}"
    path.write_bytes(packed)
    texts, skipped = read(path)
    assert skipped.counts["broken gzip" if suffix == "gz" else "broken zstd"] == 1
    intact = 0 if damage == "not compressed" else len(parts) // 16
    assert texts[:intact] == parts[:intact]
    assert damage == "garbled" or texts == parts[: len(texts)]


def test_broken_and_foreign_parquet_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no PAR1")
    pyarrow.parquet.write_table(pyarrow.table({"other": ["c"]}), tmp_path / "b.parquet")
    texts, skipped = read(tmp_path / "*")
    assert texts == []
    assert skipped.counts == {"broken parquet": 1, "no column 'text'": 1}


def test_invalid_text_and_empty_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"fine\nnot \xff fine\n")
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b" \n")
    (tmp_path / "d.txt").write_bytes(b"fine")
    texts, skipped = read(tmp_path / "*")
    assert texts == ["fine"]
    assert skipped.examples == [
        f"{tmp_path}/a.txt:2: invalid UTF-8",
        f"{tmp_path}/b.txt: empty file",
        f"{tmp_path}/c.txt:1: empty",
    ]


@pytest.mark.parametrize("separator", ["\n\n", "\n", ""])
def test_long_texts_become_several_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str
) -> None:
    monkeypatch.setattr(records, "PART_BYTES", 1000)
    monkeypatch.setattr(decompress, "CHUNK_BYTES", 700)
    text = separator.join(f"{number}é😀" for number in range(2000))
    (tmp_path / "x.txt").write_text(text)
    texts, skipped = read(tmp_path / "x.txt")
    assert "".join(texts) == text
    assert len(texts) > 10
    assert all(len(part.encode()) < 2000 for part in texts)
    assert all(part.endswith(separator) for part, _ in pairwise(texts))
    assert not skipped.counts


def test_a_bad_part_of_a_long_text_is_located(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "PART_BYTES", 100)
    lines = [b"%08d" % number for number in range(1000)]
    lines[500] = b"\xff"
    (tmp_path / "x.txt").write_bytes(b"\n".join(lines))
    texts, skipped = read(tmp_path / "x.txt")
    assert skipped.examples == [f"{tmp_path}/x.txt:501: invalid UTF-8"]
    assert len("".join(texts)) > 8500


def test_what_cannot_be_read_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no file matches '.*nothing/\*\.txt'"):
        read(tmp_path / "nothing/*.txt")
    (tmp_path / "x.pdf").touch()
    with pytest.raises(SourceError, match=r"x\.pdf: cannot read this kind of file"):
        read(tmp_path / "*")
    with pytest.raises(SourceError, match="unknown source kind 'web': use python-docs"):
        next(documents({"kind": "web"}))


@pytest.mark.parametrize(("file", "package"), [("zst", "zstandard"), ("parquet", "pyarrow")])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, package: str
) -> None:
    path = tmp_path / ("x.txt.zst" if file == "zst" else "x.parquet")
    path.write_bytes(zstandard.compress(b"x"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SourceError, match=rf"needs {package}: pip install {package}"):
        read(path)


def test_the_fingerprint_sees_added_and_changed_files(tmp_path: Path) -> None:
    source = {"kind": "files", "paths": [str(tmp_path / "*.txt")]}
    (tmp_path / "a.txt").write_text("one")
    first = input_fingerprint(source)
    assert (first["files"], first["bytes"]) == (1, 3)
    assert input_fingerprint(source) == first
    (tmp_path / "a.txt").write_text("four")
    second = input_fingerprint(source)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert len({str(first), str(second), str(input_fingerprint(source))}) == 3
    assert file_list(source) == [str(tmp_path / "b.txt")]
