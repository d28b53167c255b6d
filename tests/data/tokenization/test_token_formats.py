"""Tokens in the formats of Megatron-LM and datatrove, there and back; Megatron reads ours."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from llamac.data.tokenization.token_formats import FORMATS, ExportError, export
from llamac.runtime.data.prepared import KEYS, SPLITS, ShardWriter, token_dtype
from llamac.runtime.data.sources.indexed_tokens import HEADER, MAGIC, token_documents
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.runtime.durable_files import write_note

EOS = 2
every_format = pytest.mark.parametrize("kind", FORMATS)
vocabularies = pytest.mark.parametrize("vocabulary", [1000, 100_000])
DOCUMENTS = {"train": [[5, 6, 7], [8], [9] * 50, [10, 11]], "validation": [[12, 13], [14]]}


def prepared(root: Path, vocabulary: int) -> Path:
    """One source; its last token is the vocabulary's. Documents cross shards of 20 tokens."""
    (root / "web").mkdir(parents=True)
    part: dict = {"name": "web", "share": 1.0}
    for split in SPLITS:
        writer = ShardWriter(root / "web" / split, token_dtype(vocabulary), 20)
        for document in documents(split, vocabulary):
            writer.add(np.array([*document, EOS]), len(document))
        part[split] = writer.close()
    manifest = {key: {} for key in KEYS} | {"dtype": token_dtype(vocabulary).str, "sources": [part]}
    write_note(root / "manifest.json", manifest | {"tokenizer": {"eos": EOS}})
    return root


def documents(split: str, vocabulary: int) -> list[list[int]]:
    return [*DOCUMENTS[split], [vocabulary - 1]]


def read(path: Path, vocabulary: int, skipped: Skipped | None = None) -> list[list[int]]:
    found = token_documents(str(path), EOS, vocabulary, skipped or Skipped())
    return [tokens.tolist() for _, tokens in found]


@every_format
@vocabularies
def test_what_is_written_reads_back(tmp_path: Path, kind: str, vocabulary: int) -> None:
    paths = export(prepared(tmp_path / "data", vocabulary), tmp_path / "out", kind)
    assert len(paths) == 4
    for split in SPLITS:
        name = {"megatron": f"web_{split}.idx", "datatrove": f"web_{split}.ds"}[kind]
        assert tmp_path / "out" / name in paths
        skipped = Skipped()
        assert read(tmp_path / "out" / name, vocabulary, skipped) == documents(split, vocabulary)
        assert not skipped.counts


@pytest.mark.slow
@vocabularies
def test_megatron_reads_what_we_write(tmp_path: Path, vocabulary: int) -> None:
    reader = pytest.importorskip("megatron.core.datasets.indexed_dataset", exc_type=ImportError)
    export(prepared(tmp_path / "data", vocabulary), tmp_path / "out", "megatron")
    found = reader.IndexedDataset(str(tmp_path / "out" / "web_train"))
    wanted = [[*document, EOS] for document in documents("train", vocabulary)]
    assert [document.tolist() for document in found] == wanted
    assert found.document_indices.tolist() == list(range(len(wanted) + 1))


@pytest.mark.slow
def test_we_read_what_megatron_writes(tmp_path: Path) -> None:
    """Documents of several sequences too, and a data type of its own choice."""
    import torch

    writer = pytest.importorskip("megatron.core.datasets.indexed_dataset", exc_type=ImportError)
    builder = writer.IndexedDatasetBuilder(str(tmp_path / "x.bin"), dtype=np.int32)
    builder.add_document(torch.tensor([5, 6, EOS]), [3])
    builder.add_document(torch.tensor([7, 8, 9, 10, 11]), [3, 2])
    builder.finalize(str(tmp_path / "x.idx"))
    assert read(tmp_path / "x.bin", 1000) == [[5, 6], [7, 8, 9, 10, 11]]


def test_a_document_with_an_end_inside_is_two(tmp_path: Path) -> None:
    np.array([5, EOS, EOS, 6, EOS, 7, 8, EOS], "<u2").tofile(tmp_path / "x.ds")
    np.array([5, 8], "<u8").tofile(tmp_path / "x.ds.index")
    found = token_documents(str(tmp_path / "x.ds"), EOS, 100, Skipped())
    assert [(n, t.tolist()) for n, t in found] == [(1, [5]), (1, [6]), (2, [7, 8])]


@every_format
def test_nothing_is_written_over(tmp_path: Path, kind: str) -> None:
    data = prepared(tmp_path / "data", 1000)
    first = export(data, tmp_path / "out", kind)
    first[0].unlink()
    with pytest.raises(ExportError, match="already exists"):
        export(data, tmp_path / "out", kind)
    assert not first[0].exists()


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (b"", "not a Megatron index"),
        (b"MMIDIDX\x00\x00", "not a Megatron index"),
        (HEADER.pack(b"something", 1, 8, 0, 1), "not a Megatron index"),
        (HEADER.pack(MAGIC, 2, 8, 0, 1), "version 2"),
        (HEADER.pack(MAGIC, 1, 7, 0, 1), "dtype code 7"),
        (HEADER.pack(MAGIC, 1, 8, 10**15, 10**15), "truncated"),
        (HEADER.pack(MAGIC, 1, 8, 1, 2) + struct.pack("<iqqq", -4, 0, 0, 1), "negative"),
        (HEADER.pack(MAGIC, 1, 8, 1, 2) + struct.pack("<iqqq", 2, 0, 1, 0), "out of order"),
        (HEADER.pack(MAGIC, 1, 8, 1, 2) + struct.pack("<iqqq", 2, 0, 0, 9), "out of order"),
    ],
)
def test_a_broken_index_is_counted_and_named(tmp_path: Path, index: bytes, reason: str) -> None:
    (tmp_path / "x.idx").write_bytes(index)
    (tmp_path / "x.bin").write_bytes(bytes(8))
    skipped = Skipped()
    assert read(tmp_path / "x.idx", 1000, skipped) == []
    assert skipped.counts == {"unreadable tokens": 1}
    assert reason in skipped.examples[0]


def test_a_document_that_cannot_be_is_counted_and_the_others_kept(tmp_path: Path) -> None:
    tokens = np.array([5, 6, EOS, 999, EOS, EOS, 7, 8], dtype="<u2")
    (tmp_path / "x.ds").write_bytes(tokens.tobytes())
    (tmp_path / "x.ds.index").write_bytes(np.array([3, 5, 6, 8, 20], dtype="<u8").tobytes())
    skipped = Skipped()
    assert read(tmp_path / "x.ds", 100, skipped) == [[5, 6], [7, 8]]
    assert skipped.counts == {
        "tokens outside the vocabulary": 1,
        "empty": 1,
        "tokens beyond the end of the file": 1,
    }
    assert [example.split(":")[-2] for example in skipped.examples] == ["2", "3", "5"]


def test_an_index_cannot_give_the_same_tokens_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(np.arange(1000, 2000, dtype="<u2").tobytes())
    for count, reason in ((1, None), (1000, "more than once")):
        lengths, places = np.full(count, 1000, "<i4"), np.zeros(count, "<i8")
        index = HEADER.pack(MAGIC, 1, 8, count, count + 1) + lengths.tobytes() + places.tobytes()
        (tmp_path / "x.idx").write_bytes(index + np.arange(count + 1, dtype="<i8").tobytes())
        skipped = Skipped()
        assert len(read(tmp_path / "x.idx", 2000, skipped)) == (reason is None)
        assert skipped.counts.total() == (reason is not None)
        assert reason is None or reason in skipped.examples[0]


def test_an_absent_index_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.ds").write_bytes(b"1234")
    skipped = Skipped()
    assert read(tmp_path / "x.ds", 100, skipped) == []
    assert skipped.counts["unreadable tokens"] == 1
