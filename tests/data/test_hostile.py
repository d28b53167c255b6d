"""Broken input is counted, reported and skipped: by every kind, end to end, in bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from llamac.data.accounting.accounts import accounts
from llamac.spec import load_spec
from tests.data.preparing import prepared, write_corpus

PROSE = "The river ran past the mill and on to the sea, as it had done for many years. " * 6
PAGE = f"<html><head><title>A page</title></head><body><main><p>{PROSE}</p></main></body></html>"
WIKI = (
    '<mediawiki xml:lang="en"><siteinfo><dbname>enwiki</dbname></siteinfo><page><title>River'
    f"</title><ns>0</ns><id>1</id><revision><id>2</id><text>{PROSE}</text></revision></page>"
    "</mediawiki>"
)
POSTS = (
    '<?xml version="1.0"?><posts>\n<row Id="1" PostTypeId="1" Score="2" Title="Rivers?" '
    f'Body="&lt;p&gt;{PROSE}&lt;/p&gt;" />\n</posts>'
)
PAPER = (
    "\\documentclass{article}\\begin{document}\\section{Rivers}\n" + PROSE + "\n\\end{document}\n"
)
RECORD = (
    "WARC/1.0\r\nWARC-Type: resource\r\nWARC-Target-URI: http://a.example/\r\n"
    f"Content-Type: text/html\r\nContent-Length: {len(PAGE)}\r\n\r\n{PAGE}\r\n\r\n"
)

# What a file of each kind is called, and what a good one holds.
GOOD = {
    "files": (".jsonl", json.dumps({"text": PROSE}) + "\n"),
    "commoncrawl": (".warc", RECORD),
    "c4": (".warc", RECORD),
    "wikipedia": (".xml", WIKI),
    "books": (".txt", PROSE),
    "arxiv": (".tex", PAPER),
}


def write_kind(folder: Path, kind: str, good: str, paths: str = "*") -> Path:
    """A spec of that source, without stages, and of one that has text enough for a tokenizer."""
    write_corpus(folder / "notes", files=2)
    spec = folder / "hostile.toml"
    spec.write_text(
        f"""
extends = "tiny"
[model]
vocab_size = 320
[tokenizer]
train_bytes = 10_000
[data]
validation = 1e-9
[[data.source]]
name = "hostile"
kind = "{kind}"
share = 1
paths = ["{folder}/in/{paths}"]
stage = []
[[data.source]]
name = "notes"
kind = "files"
share = 1
paths = ["{folder}/notes/*"]
"""
    )
    return spec


def tar_of(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("kind", GOOD)
def test_broken_files_are_counted_and_the_good_one_is_read(kind: str, tmp_path: Path) -> None:
    ending, good = GOOD[kind]
    folder = tmp_path / "in"
    folder.mkdir()
    packed = gzip.compress(good.encode() + os.urandom(3000).hex().encode())
    broken = {
        f"a-empty{ending}": b"",
        f"b-cut{ending}.gz": packed[: len(packed) // 2],
        f"c-none{ending}.gz": b"this is not gzip",
        f"d-bomb{ending}.gz": gzip.compress(bytes(100 << 20)),
        f"e-nul{ending}": b"\0" * 5000,
        f"f-bytes{ending}": bytes(range(256)) * 40,
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    (folder / f"g-good{ending}").write_text(good)
    spec = write_kind(tmp_path, kind, good)
    prepared(spec, tmp_path / "out")
    account = accounts(load_spec(spec).data, tmp_path / "out")[0]
    told = {Path(example.split(":")[0]).name for example in account.examples}
    assert set(broken) <= told | {f"f-bytes{ending}"}, account.examples
    assert f"g-good{ending}" not in told
    assert account.rows[0].rejected
    files = (tmp_path / "out" / "hostile").glob("train-*.names")
    names = b"".join(file.read_bytes() for file in files).split(b"\0")
    assert f"{folder}/g-good{ending}".encode() in names


@pytest.mark.slow
def test_broken_archives_and_trees_of_code(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "tree").mkdir(parents=True)
    (folder / "tree" / "LICENSE").write_text("SPDX-License-Identifier: MIT\n")
    (folder / "tree" / "good.py").write_text(PROSE.replace(". ", ".\n"))
    (folder / "tree" / "nul.py").write_bytes(b"\0" * 100)
    (folder / "tree" / "empty.py").write_bytes(b"")
    (folder / "tree" / "latin.py").write_bytes(b"# caf\xe9\n" * 20)
    (folder / "tree" / "loop").symlink_to(folder / "tree")
    whole = tar_of("a.py", os.urandom(20_000))
    (folder / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "bomb.tar.gz").write_bytes(tar_of("b.py", bytes(100 << 20)))
    spec = write_kind(tmp_path, "github", "")
    manifest = prepared(spec, tmp_path / "out")
    assert manifest["sources"][0]["train"]["documents"] == 1
    told = " ".join(manifest["sources"][0]["skipped_examples"])
    for name in ("nul.py", "empty.py", "latin.py", "cut.tar.gz", "bomb.tar.gz"):
        assert name in told


def test_posts_that_end_in_the_middle(tmp_path: Path) -> None:
    for name, text in (("whole", POSTS), ("cut", POSTS[: len(POSTS) // 2]), ("empty", "")):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "Posts.xml").write_text(text)
    manifest = prepared(write_kind(tmp_path, "stackexchange", "", "*/Posts.xml"), tmp_path / "out")
    assert manifest["sources"][0]["train"]["documents"] == 1
    told = " ".join(manifest["sources"][0]["skipped_examples"])
    assert "cut/Posts.xml" in told
    assert "empty/Posts.xml" in told


@pytest.mark.slow
def test_a_line_of_a_gigabyte_takes_no_gigabyte_of_memory(tmp_path: Path) -> None:
    """The file is a hole on disk: a line of NULs, then a good one."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "long.jsonl"
    path.touch()
    os.truncate(path, 1 << 30)
    with path.open("ab") as file:
        file.write(b"\n" + GOOD["files"][1].encode())
    spec = write_kind(tmp_path, "files", "")
    code = (
        "import re, sys; from pathlib import Path\n"
        "from tests.data.preparing import prepared\n"
        "prepared(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", code, str(spec), str(tmp_path / "out")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 400_000  # KiB; a line of up to 64 MiB is in memory several times
    account = accounts(load_spec(spec).data, tmp_path / "out")[0]
    assert {reason: n for reason, (n, _) in account.rows[0].rejected.items()} == {
        "line too long": 1
    }
    assert account.rows[0].left[0] == 1


def test_a_reader_or_stage_that_fails_costs_a_document_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in one document is a reason among others, with its message in the sample."""
    from llamac.data import clean

    def fails(path: str, source: object, skipped: object) -> object:
        if path.endswith("0.jsonl"):
            raise ZeroDivisionError("of a file")
        return original("files")(path, source, skipped)  # type: ignore[arg-type]

    original = clean.reader_for
    write_corpus(tmp_path / "in", files=2)
    spec = write_kind(tmp_path, "files", "", "*.jsonl")
    monkeypatch.setattr(clean, "reader_for", lambda kind: fails)
    manifest = prepared(spec, tmp_path / "out")
    assert manifest["sources"][0]["skipped"]["the reader failed (ZeroDivisionError)"] == 1
    assert manifest["sources"][0]["train"]["documents"] == 40
