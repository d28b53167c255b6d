"""A reader's memory does not grow with what it reads, whatever that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

READ = """
import resource, sys
from llamac.data.readers import reader_for
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source
kind, path, touch = sys.argv[1:]
source = Source(name="test", kind=kind, share=1, paths=(path,))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
list(reader_for(kind)(touch, source, Skipped()))  # imports are not what is measured
before, skipped = peak(), Skipped()
count = sum(1 for _ in reader_for(kind)(path, source, skipped))
print(peak() - before, count, sum(skipped.counts.values()))
"""
SIZE = 1 << 29  # bytes in a file
MOST = 300  # MB: a few times the longest record or line
LONG = {
    "files": ("a.jsonl", b'{"text": "', b"a"),
    "wikipedia": ("a.xml", b"<mediawiki><page><text>", b"a"),
    "stackexchange": ("a.xml", b'<posts><row Id="', b"1"),
    "commoncrawl": ("a.warc", b"WARC/1.0\r\nContent-Length: ", b"9"),
    "books": ("a.txt", b"", b"word "),
    "github": ("a.py", b"", b"a = 1\n"),
    "arxiv": ("a.tex", b"\\section{", b"{"),
}


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True], ids=["as it is", "as a bomb"])
@pytest.mark.parametrize("kind", LONG)
def test_half_a_gigabyte_without_an_end_does_not_fill_memory(
    kind: str, packed: bool, tmp_path: Path
) -> None:
    name, head, unit = LONG[kind]
    path, small = tmp_path / (name + ".zst" * packed), tmp_path / f"small-{name}"
    small.write_bytes(head + unit)
    block = (unit * (1 << 16))[: 1 << 16]
    compressor = zstandard.ZstdCompressor(level=1)
    with path.open("wb") as raw:
        file = compressor.stream_writer(raw, closefd=False) if packed else raw
        file.write(head)
        for _ in range(SIZE // len(block)):
            file.write(block)
        if packed:
            file.close()
    arguments = [sys.executable, "-c", READ, kind, str(path), str(small)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    grown, documents, skipped = map(int, done.stdout.split())
    assert grown < MOST
    assert documents == 0
    assert skipped >= 1
